"""Run the pipeline as a Ray Job."""
