"""Save and load a trained VAE: a folder with its weights and its config."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from components.foundation import checkpoint
from components.foundation.config import Config, parse
from components.nn.autoencoders.kinds import VAE, AutoencoderConfig


class VAEDescription(Config):
    """Schema of a saved VAE config of any kind."""

    autoencoder: AutoencoderConfig


def save(folder: Path, vae: VAE, weights: Mapping[str, Tensor]) -> None:
    """Write these weights and the VAE's config to the folder, which `load` reads."""
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, weights)
    checkpoint.describe(folder, vae.config)


def description(folder: Path) -> AutoencoderConfig:
    """Return the config of the VAE in this folder. Raise InputError if the config is missing or invalid."""
    where = str(folder / checkpoint.DESCRIPTION)
    return parse(VAEDescription, {"autoencoder": checkpoint.described(folder)}, where=where).autoencoder


def load(folder: Path, device: torch.device) -> VAE:
    """Return the frozen VAE in this folder. Raise InputError if it is missing, damaged, or its weights do not fit."""
    vae = description(folder).build()
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, vae)
    return vae.requires_grad_(False).eval().to(device)
