"""Tiny models with every mechanism in them; gates that begin at zero are opened, so that everything has an effect."""

from collections.abc import Callable

import pytest
import torch

from components.models.canvasmar.canvas_vit import CanvasConfig
from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.models.canvasmar.reference import RelativeConfig
from components.models.canvasmar.spatial_mar import SpatialConfig
from components.models.canvasmar.temporal_vit import TemporalConfig
from components.models.conditions.interface import ActionConfig
from components.models.flow_head import FlowHeadConfig
from components.models.masking import MaskConfig
from components.sampling.frame import SamplerConfig

LATENT = (3, 4, 4)


def tiny_config(
    *,
    canvas: bool = True,
    block: str = "expert_norm",
    encoder_depth: int = 1,
    group: int = 1,
    first_frame: bool = False,
    change: bool = False,
    history: int = 1,
    local: bool = False,
    relative: RelativeConfig | None = None,
    condition: ActionConfig | None = None,
    rows: int | None = None,
    own: float = 0.0,
) -> CanvasMARConfig:
    size = {"width": 16, "heads": 2, "norm_first": False}
    return CanvasMARConfig(
        kind="canvasmar",
        latent=LATENT,
        temporal=TemporalConfig(**size, layers=2, window=8),
        canvas=CanvasConfig(
            **size,
            layers=2,
            frame_noise=(0.2, 0.6),
            canvas_noise=(0.0, 0.3),
            canvas_weight=0.1,
            static_weight=0.1,
            static_scale=1.0,
            change=change,
            history=history,
            own=own,
            local=local,
        )
        if canvas
        else None,
        spatial=SpatialConfig(**size, layers=3, encoder_depth=encoder_depth, block=block, local=local),
        head=FlowHeadConfig(width=24, layers=2, repeats=2, preconditioned=False),
        mask=MaskConfig(mean=1.0, std=0.25, low=0.7),
        drop=0.05,
        group=group,
        first_frame=first_frame,
        relative=relative,
        condition=condition,
        rows=rows,
    )


@pytest.fixture
def config() -> CanvasMARConfig:
    return tiny_config()


@pytest.fixture
def make() -> Callable[..., CanvasMAR]:
    def build(**choices: object) -> CanvasMAR:
        torch.manual_seed(0)
        model = tiny_config(**choices).build()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return build


@pytest.fixture
def model(make: Callable[..., CanvasMAR]) -> CanvasMAR:
    return make()


@pytest.fixture
def sampler() -> SamplerConfig:
    return SamplerConfig(
        sets=4, flow_steps=5, solver="euler", order="motion_aware", temperature=6.5,
        temporal_scale=1.2, canvas_scale=1.5, guidance="constant", frame_noise=0.3, canvas_noise=0.2,
        noise_temperature=1.0,
        late_temperature=1.0,
    )  # fmt: skip
