"""The stages of the pipeline; each is a function from input folders to one output folder."""
