"""Check params.yaml as a whole before anything runs; no output depends on these checks."""
