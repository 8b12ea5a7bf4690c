"""Models that predict the next latent frames."""
