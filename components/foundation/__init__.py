"""The lowest layer, which all others may import: configuration, errors, checkpoints, randomness."""
