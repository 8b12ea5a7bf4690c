"""A finished VAE in its folder: weights, and what they are."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from components import checkpoint
from components.autoencoders.kinds import VAE, AutoencoderConfig
from components.config import Config, parse


class Described(Config):
    """The description of a VAE of any kind."""

    autoencoder: AutoencoderConfig


def save(folder: Path, vae: VAE, weights: Mapping[str, Tensor]) -> None:
    """Writes weights of this VAE, and what they are, so that nothing else is needed to load them."""
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, weights)
    checkpoint.describe(folder, vae.config)


def description(folder: Path) -> AutoencoderConfig:
    """What the VAE in this folder is. Raises InputError if it does not say."""
    where = str(folder / checkpoint.DESCRIPTION)
    return parse(Described, {"autoencoder": checkpoint.described(folder)}, where=where).autoencoder


def load(folder: Path, device: torch.device) -> VAE:
    """The VAE in this folder, frozen. Raises InputError if it is missing, damaged or of another configuration."""
    vae = description(folder).build()
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, vae)
    return vae.requires_grad_(False).eval().to(device)
