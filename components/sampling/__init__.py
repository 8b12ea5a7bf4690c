"""Sampling of predicted videos from a model and context frames."""
