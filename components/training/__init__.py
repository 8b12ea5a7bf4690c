"""From a model and latents to trained weights."""
