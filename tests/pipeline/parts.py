"""The parts of an experiment, none of which was trained: a VAE and a video model that fit one another."""

from pathlib import Path
from typing import Any

import torch

from components.foundation import checkpoint
from components.foundation.config import parse
from components.foundation.settings import presets
from components.models.serialization import ModelDescription
from components.nn.autoencoders.folded import CausalVAEConfig
from tests.pipeline.conftest import ROOT, tiny


def tables() -> dict[str, Any]:
    """Tiny parameters."""
    return tiny(presets.read(ROOT / "presets" / "kuka.yaml"))


def write_models(folder: Path, frames: int) -> str:
    """Folders `vae` and `model`; returns the identity of the VAE."""
    torch.manual_seed(0)
    vae = parse(CausalVAEConfig, tables()["autoencoders"]["kuka-vae"] | {"frames": frames}, where="test")
    _save(folder / "vae", vae.build(), vae)
    identity = checkpoint.identity(folder / "vae")
    content = {"model": tables()["models"]["canvas"], "autoencoder": identity, "clips": "c", "encoder": None}
    content |= {"actions": None, "mean": [0.0] * 4, "std": [1.0] * 4}
    trained = parse(ModelDescription, content, where="test")
    _save(folder / "model", trained.model.build(), trained)
    return identity


def _save(folder: Path, module: torch.nn.Module, description: Any) -> None:
    for weight in module.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # fresh ones hold zeros, which no setting of a sampler moves
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, module.state_dict())
    checkpoint.describe(folder, description)
