"""A model learns from the tokens of a frame that it sees, where the past says nothing."""

import torch
import torch.nn.functional as F

from components.foundation.config import Config, parse, plain
from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.models.canvasmar.spatial_mar import SpatialConfig
from components.models.canvasmar.temporal_vit import TemporalConfig
from components.models.flow_head import FlowHeadConfig
from components.models.masking import MaskConfig
from tests.behaviour.conftest import tiny_config

CHANNELS, SIDE, STEPS, BATCH = 2, 8, 200, 16


def smooth_frames(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Return clips of two frames, each drawn anew: four random corners and what lies between them."""
    corners = torch.randn(2 * batch, CHANNELS, 2, 2, generator=generator)
    frames = F.interpolate(corners, size=(SIDE, SIDE), mode="bilinear", align_corners=True)
    return (1.5 * frames).unflatten(0, (batch, 2))


def made(*, local: bool) -> CanvasMAR:
    """Return a model without a canvas that is trained at all numbers of visible tokens."""
    size = {"width": 32, "heads": 4, "norm_first": False}
    parts = {
        "latent": (CHANNELS, SIDE, SIDE),
        "temporal": TemporalConfig(**size, layers=1, window=2),
        "spatial": SpatialConfig(**size, layers=3, encoder_depth=1, block="expert_norm", local=local),
        "head": FlowHeadConfig(width=64, layers=2, repeats=4, preconditioned=False),
        "mask": MaskConfig(mean=1.0, std=0.25, low=0.1),
        "drop": 0.0,
    }
    torch.manual_seed(0)
    config = {
        **plain(tiny_config(canvas=False)),
        **{name: plain(part) if isinstance(part, Config) else part for name, part in parts.items()},
    }
    return parse(CanvasMARConfig, config, where="here").build()


def train(model: CanvasMAR) -> None:
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for step in range(STEPS):
        clips = smooth_frames(BATCH, generator)
        optimizer.zero_grad()
        model(clips, model.draw(clips, Stream.of(0, range(BATCH)).fork(step))).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def flow_loss(model: CanvasMAR, visible: int) -> float:
    clips = smooth_frames(64, torch.Generator().manual_seed(99))
    return model(clips, model.draw(clips, Stream.of(7, range(64)), visible=visible)).terms["flow"].item()


def test_with_local_convolutions_the_flow_loss_soon_falls_with_the_number_of_visible_tokens() -> None:
    """Attention with additive positions is at 0.6 after as many steps: it knows the mean, not the neighbours."""
    model = made(local=True)
    train(model)
    none, some, most = (flow_loss(model, visible) for visible in (0, 16, 48))
    assert some < 0.5 * none
    assert most < 0.35 * none
