"""What values of params.yaml may be: the ranges of numbers and the names of entries."""
