"""A trained VAE in its folder: weights, and what they are."""

from pathlib import Path

import torch

from components import checkpoint
from components.autoencoders.causal import CausalVAE, CausalVAEConfig


def load(folder: Path, device: torch.device) -> CausalVAE:
    """The VAE in this folder, frozen. Raises InputError if it is missing, damaged or of another configuration."""
    vae = checkpoint.description(folder, CausalVAEConfig).build()
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, vae)
    return vae.requires_grad_(False).eval().to(device)
