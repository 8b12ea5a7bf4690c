"""Video autoencoders: clips to moments, and latents to clips."""
