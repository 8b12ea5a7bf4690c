"""Allowed values in params.yaml: ranges of numbers, and names of entries."""
