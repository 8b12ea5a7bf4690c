"""Load a trained model from its folder: weights, config, latent statistics and hashes of its training data."""

from pathlib import Path

import torch

from components.foundation import checkpoint
from components.foundation.config import Config
from components.foundation.settings.ranges import Positive
from components.models.conditions.interface import ActionScale
from components.models.kinds import Model, ModelConfig


class ModelDescription(Config):
    """Description of a trained model, stored beside its weights."""

    model: ModelConfig
    autoencoder: str  # identity of the VAE that encoded the latents
    clips: str  # hash of the training clips
    encoder: str | None  # identity of the encoder of captions, labels or actions; None without a condition
    actions: ActionScale | None  # scale of the training actions; None for a model without actions
    mean: tuple[float, ...]  # mean of each latent channel
    std: tuple[Positive, ...]  # standard deviation of each latent channel


def load(folder: Path, device: torch.device) -> tuple[Model, ModelDescription]:
    """Load the frozen model in eval mode on `device`, and its description.

    Raises InputError if the folder is incomplete or damaged, or its weights do not fit the model config.
    """
    description = checkpoint.description(folder, ModelDescription)
    model = description.model.build()
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, model)
    return model.requires_grad_(False).eval().to(device), description
