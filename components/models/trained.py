"""A trained model in its folder: weights, what they are, and the latents that they belong to."""

from pathlib import Path

import torch

from components import checkpoint
from components.config import Config
from components.models.kinds import Model, ModelConfig


class Trained(Config):
    """What a folder of trained weights says of itself."""

    model: ModelConfig
    autoencoder: str  # identity of the VAE that made the latents
    clips: str  # hash of the clips that they were made of
    encoder: str | None  # identity of what made vectors of captions or labels
    mean: tuple[float, ...]  # of each channel of the latents
    std: tuple[float, ...]


def load(folder: Path, device: torch.device) -> tuple[Model, Trained]:
    """The model in this folder, frozen. Raises InputError if it is missing, damaged or of another configuration."""
    trained = checkpoint.description(folder, Trained)
    model = trained.model.build()
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, model)
    return model.requires_grad_(False).eval().to(device), trained
