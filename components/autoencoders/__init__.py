"""From clips to moments, and from latents back to clips."""
