"""Tiny models of each kind that runs one transformer over all frames."""

import torch

from components.foundation.config import parse
from components.foundation.randomness import Stream
from components.models.kinds import Model
from components.models.serialization import ModelDescription
from components.sampling.frame import SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from tests.behaviour.conftest import LATENT

MASK = {"mean": 1.0, "std": 0.25, "low": 0.7}
DECODER = {"width": 32, "heads": 2, "layers": 2, "norm_first": False, "extent": [8, 6, 6]}
HEAD = {"width": 24, "layers": 2, "repeats": 2, "preconditioned": False}
MASKED = {"latent": list(LATENT), "decoder": DECODER, "head": HEAD, "mask": MASK}
KINDS = {
    "videomar": {"kind": "videomar", **MASKED, "condition": None},
    "magi": {"kind": "magi", **MASKED, "history_levels": 5, "history_noise": 0.5},
    "full_frame": {"kind": "full_frame", "latent": list(LATENT), "decoder": DECODER, "group": 1},
}


def tiny(kind: str, **changes: object) -> Model:
    """Return a model with newly initialised weights, the same at every call."""
    torch.manual_seed(0)
    content = {
        "model": {**KINDS[kind], **changes},
        "autoencoder": "",
        "clips": "",
        "encoder": None,
        "actions": None,
        "mean": [],
        "std": [],
    }
    return parse(ModelDescription, content, where="here").model.build()


def opened(kind: str, **changes: object) -> Model:
    """Return `tiny` with random gates and outputs instead of zeros, so that every part has an effect."""
    model = tiny(kind, **changes)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def clips(batch: int = 2, frames: int = 5) -> torch.Tensor:
    return torch.randn(batch, frames, *LATENT, generator=torch.Generator().manual_seed(1))


def first(model: FramePredictor, context: torch.Tensor, sampler: SamplerConfig) -> torch.Tensor:
    """Return the first predicted frame after the context."""
    return next(rollout(model, context, 1, Stream.of(0, range(len(context))), sampler)).latent
