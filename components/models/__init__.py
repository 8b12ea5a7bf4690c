"""Predictors of the next latent frame."""
