from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.planned import Case, memory
from components.foundation.config import parse
from components.models.canvasmar.model import CanvasMARConfig
from components.training.loop import Training
from components.training.plan import Plan, loss_names, parameters, plan
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import Linear, recipe

BUILD = tiny_config().build
CLIP = torch.zeros(1, 5, *LATENT)


def planned(build: Callable[[], nn.Module] = BUILD, clip: Tensor = CLIP, **changes: Any) -> Plan:
    return plan(build, clip, recipe(**changes))


def test_the_work_of_a_linear_layer_is_what_one_counts_by_hand() -> None:
    """Two operations for each of three numbers forward, and two backward, for the weights; 4 points."""
    assert planned(Linear, torch.zeros(1, 3)).flops == 4 * (2 * 3 + 2 * 3)


def test_the_losses_that_a_training_will_report_are_those_of_a_real_step() -> None:
    training = Training(BUILD(), lambda model: model, recipe())
    losses = training.losses(training.model, torch.zeros(2, *CLIP.shape[1:]), training.stream((0, 1), "here"))
    assert loss_names(BUILD, CLIP) == ["loss", *losses.terms]


def test_the_planned_work_is_within_15_percent_of_what_real_steps_compute() -> None:
    whole = Training(tiny_config().build(), lambda model: model, recipe())
    clips = torch.randn(4, *CLIP.shape[1:], generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        for _ in range(8):
            whole.update((0, 1, 2, 3), clips)
    assert planned().flops == pytest.approx(counter.get_total_flops() / 8, rel=0.15)


def test_work_grows_with_the_batch_and_not_with_workers_or_what_is_computed_twice() -> None:
    once = planned().flops
    assert planned(batch=8).flops == 2 * once
    assert planned(workers=2).flops == planned(micro_batch=1).flops == once
    assert planned(activation_checkpointing=True).flops == once


def test_hours_are_steps_times_work_over_the_rate_of_all_workers() -> None:
    config = recipe(steps=1000, workers=2)
    found = plan(tiny_config().build, CLIP, config)
    assert found.hours(config, 1e9) == pytest.approx(1000 * found.flops / 2e9 / 3600)


def test_the_parts_parameters_add_up_to_all() -> None:
    model = tiny_config().build()
    found = parameters(model)
    assert set(found) == {"temporal", "canvas", "spatial", "head", "others"}
    assert sum(found.values()) == sum(weight.numel() for weight in model.parameters())


def test_nothing_is_exchanged_by_one_worker_and_a_ring_of_two_sends_every_gradient_once() -> None:
    assert planned().sent_bytes == 0
    weights = sum(planned().parameters.values())
    assert planned(workers=2).sent_bytes == 4 * weights
    assert planned(workers=2).memory["all-reduce buffers"] == 4 * weights


def working(**changes: Any) -> int:
    return planned(clip=torch.zeros(1, 9, *LATENT), batch=32, **changes).memory["gradients and activations"]


def test_fewer_clips_at_once_half_the_precision_and_checkpointing_each_need_less_memory() -> None:
    most = working()
    assert working(micro_batch=8) < 0.4 * most
    assert working(precision="bfloat16") < 0.8 * most
    assert working(activation_checkpointing=True) < 0.8 * most


def test_weights_averages_and_moments_are_four_bytes_a_number() -> None:
    found = planned()
    weights = 4 * sum(found.parameters.values())
    assert (found.memory["weights"], found.memory["averaged weights"], found.memory["optimiser"]) == (
        weights, weights, 2 * weights,
    )  # fmt: skip
    assert found.checkpoint_bytes == 4 * weights


def wide() -> CanvasMARConfig:
    size = {"width": 128, "heads": 4, "norm_first": False}
    whole = {
        "kind": "canvasmar", "latent": [12, 8, 8], "temporal": {**size, "layers": 3, "window": 9},
        "canvas": {
            **size, "layers": 2, "frame_noise": [0.2, 0.6], "canvas_noise": [0.0, 0.3], "canvas_weight": 0.1,
            "static_weight": 0.1, "static_scale": 1.0,
            "change": False, "history": 1, "own": 0.0, "local": False,
        },
        "spatial": {**size, "layers": 4, "encoder_depth": 1, "block": "expert_norm", "local": False},
        "head": {"width": 192, "layers": 3, "repeats": 4, "preconditioned": False},
        "mask": {"mean": 1.0, "std": 0.25, "low": 0.7}, "drop": 0.05,
        "group": 1, "first_frame": False, "relative": None, "condition": None, "rows": None,
    }  # fmt: skip
    return parse(CanvasMARConfig, whole, where="here")


def test_the_planned_memory_is_within_15_percent_of_what_tensors_take_at_their_worst_moment() -> None:
    """The growth from a step on one clip to a step on 24, against the growth of the plan."""
    cpu = torch.device("cpu")
    few, many = (Case("", wide(), recipe(batch=batch), 2) for batch in (1, 24))
    foretold = [plan(wide().build, torch.zeros(1, *few.clip), case.recipe).memory for case in (few, many)]
    one, other = (held["gradients and activations"] / 1e6 for held in foretold)
    assert other - one == pytest.approx(memory(many, cpu) - memory(few, cpu), rel=0.15)
