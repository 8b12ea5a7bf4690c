"""The closed forms count what torch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import arithmetic, choices, floor
from components.foundation.randomness import Stream
from components.models import flow
from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.sampling.frame import SamplerConfig, sample_frames
from tests.behaviour.conftest import LATENT, tiny_config

BATCH = 2


class Counted(FlopCounterMode):
    """Counts attention too: torch knows no formula for the fused kernel of a CPU."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.plain = sdpa_kernel(SDPBackend.MATH)

    def __enter__(self) -> "Counted":
        self.plain.__enter__()
        return super().__enter__()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        self.plain.__exit__(*args)


def sampler(**changes: object) -> SamplerConfig:
    return choices.entry("kuka", SamplerConfig, "samplers", "default").model_copy(update={"flow_steps": 3, **changes})


def built(**options: object) -> tuple[CanvasMARConfig, CanvasMAR]:
    config = tiny_config(**options)
    return config, config.build()


@pytest.mark.parametrize("frames", [1, 3, 10])
def test_the_temporal_vit_with_its_memory_within_its_window_and_beyond(frames):
    config, model = built()
    with torch.no_grad(), Counted() as counted:
        model.remember(torch.randn(BATCH, frames, *LATENT), None)
    assert arithmetic.remembered(config, BATCH, 0, frames)["temporal"] == counted.get_total_flops()


def test_the_temporal_vit_without_a_memory():
    config, model = built()
    with torch.no_grad(), Counted() as counted:
        model.temporal(torch.randn(BATCH, 3, *LATENT))
    assert arithmetic.recomputed(config, BATCH, 3)["temporal"] == counted.get_total_flops()


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
@pytest.mark.parametrize("canvas", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sets": 16, "order": "random"},
        {"temporal_scale": 1.0, "canvas_scale": 1.0},
        {"solver": "heun"},
        {"solver": "adams_bashforth"},
    ],
)
def test_a_sampled_frame(changes, canvas, block):
    config, model = built(canvas=canvas, block=block)
    chosen = sampler(**changes)
    with torch.no_grad():
        memory = model.remember(torch.randn(BATCH, 1, *LATENT), None)
        with Counted() as counted:
            sample_frames(model, memory, Stream.of(0, range(BATCH)), chosen)
    assert sum(arithmetic.sampled(config, chosen, BATCH).values()) == counted.get_total_flops()


@pytest.mark.parametrize("canvas", [True, False])
def test_the_parts_of_a_sampled_frame(canvas):
    config, model = built(canvas=canvas)
    model.requires_grad_(False)
    counted = {}
    with torch.no_grad():
        memory = model.remember(torch.randn(BATCH, 1, *LATENT), None)
        with Counted() as counter:
            proposal = model.propose(memory, Stream.of(0, range(BATCH)), frame_noise=0.3, canvas_noise=0.2)
        counted["canvas"] = counter.get_total_flops()
        with Counted() as counter:
            order = torch.arange(16).expand(BATCH, -1)
            model.spatial(torch.zeros(BATCH, 0, 3), order, proposal.conditions[-1].mask_tokens, memory.z_t)
        counted["spatial"] = counter.get_total_flops()
        with Counted() as counter:
            projected = model.head.condition(torch.zeros(BATCH, 16, 16))
            times = flow.times(3, "euler")
            field = model.velocity_field((projected,), times)
            for time in times:
                field(torch.zeros(BATCH, 16, 3), time)
        counted["head"] = counter.get_total_flops()
    expected = arithmetic.sampled(config, sampler(sets=1, temporal_scale=1.0, canvas_scale=1.0), BATCH)
    assert {part: expected[part] for part in counted} == counted


@pytest.mark.parametrize("canvas", [True, False])
@pytest.mark.parametrize("encoder_depth", [0, 1])
def test_a_training_step_forward_and_backward(canvas, encoder_depth):
    config, model = built(canvas=canvas, encoder_depth=encoder_depth)
    latents = torch.randn(BATCH, 4, *LATENT)
    draws = model.draw(latents, Stream.of(0, range(BATCH)))
    with Counted() as counted:
        model(latents, draws).total.backward()
    expected = arithmetic.training(config, BATCH, 4, draws.visible)
    assert sum(expected.values()) == counted.get_total_flops()


def test_bairs_frame_and_clip_cost_what_the_paper_sized_model_must():
    """0.58 TFLOP a latent frame with 4 sets and 30 Euler steps, three quarters of it the head; 2.7 a training clip."""
    config = choices.entry("bair", CanvasMARConfig, "models", "canvas")
    whole = {"default": sampler(flow_steps=30, temporal_scale=1.0, canvas_scale=1.0)}
    frame, step = floor.rows(config, whole, 1, 1e12)
    assert frame["GFLOP"] == pytest.approx(580, rel=0.02)
    assert frame["head's share"] == pytest.approx(0.75, abs=0.02)
    assert frame["floor ms"] == pytest.approx(frame["GFLOP"])
    assert step["GFLOP"] == pytest.approx(2700, rel=0.03)
    assert step["head's share"] == pytest.approx(0.47, abs=0.01)


def test_three_conditions_need_three_branches_and_scales_of_one_a_single_one():
    config = tiny_config()
    assert arithmetic.branches(config, sampler()) == 3
    assert arithmetic.branches(config, sampler(temporal_scale=1.0, canvas_scale=1.0)) == 1
    assert arithmetic.branches(tiny_config(canvas=False), sampler()) == 2
