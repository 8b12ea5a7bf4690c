"""The stages: each a function from folders to a folder, and the roof under which the rooms meet."""
