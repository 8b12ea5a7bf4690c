"""Layers of the models: attention, transformer blocks, positions."""
