"""Encode clips to moments of the VAE's posterior."""
