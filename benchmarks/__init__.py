"""Measurements of speed and memory, as tables."""
