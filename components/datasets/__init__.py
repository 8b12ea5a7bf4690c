"""Clips, latents and their annotations on disk, and the order in which they are read."""
