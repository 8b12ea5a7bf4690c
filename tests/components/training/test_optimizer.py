import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from components.foundation.config import parse
from components.foundation.errors import InputError
from components.training.optimizer import RecipeConfig, build_optimizer, build_schedule
from tests.behaviour.conftest import tiny_config


def recipe(**changes: Any) -> RecipeConfig:
    whole = {
        "seed": 0, "steps": 100, "batch": 4, "micro_batch": None, "learning_rate": 0.5, "schedule": "cosine",
        "warmup": 10, "weight_decay": 0.1, "clip": 1.0, "ema": 0.9, "precision": "float32",
        "activation_checkpointing": False, "compile": False, "workers": 1, "parallel": "ddp",
        "log_every": 10,
        "validate_every": 50, "validation_clips": 4, "checkpoint_every": 50, "keep": 2, "new_weights": [], "phases": [],
    }  # fmt: skip
    return parse(RecipeConfig, whole | changes, where="here")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(4, 2, 3))
        self.head = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def no_weight_decay(self) -> set[str]:
        return {"head.weight"}


def decayed(model: nn.Module, config: RecipeConfig) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, config).param_groups
    return {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}


def test_weights_are_decayed_and_biases_norms_tokens_and_named_parameters_are_not() -> None:
    assert decayed(Model(), recipe()) == {"body.0.weight", "body.2.weight"}


def test_what_is_frozen_is_not_given_to_the_optimiser() -> None:
    model = Model()
    given = {id(p) for group in build_optimizer(model, recipe()).param_groups for p in group["params"]}
    assert given == {id(parameter) for name, parameter in model.named_parameters() if not name.startswith("frozen")}


def test_in_the_video_model_the_flow_head_is_not_decayed_and_the_attention_is() -> None:
    names = decayed(tiny_config().build(), recipe())
    assert not any(name.startswith("head.") for name in names)
    assert "spatial.blocks.0.attention.qkv.weight" in names


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
def test_in_the_video_model_no_norm_is_decayed(block: str) -> None:
    assert {name for name in decayed(tiny_config(block=block).build(), recipe()) if "norm" in name} == set()


def test_the_optimiser_is_adamw_with_the_papers_betas() -> None:
    optimizer = build_optimizer(Model(), recipe())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_the_optimiser_runs_in_one_fused_kernel_where_there_is_one() -> None:
    assert build_optimizer(Model(), recipe()).defaults["fused"] is True
    assert build_optimizer(Model().to("meta"), recipe()).defaults["fused"] is False


def rates(config: RecipeConfig) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule, found = build_schedule(optimizer, config), []
    for _ in range(config.steps):
        found.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_warms_up_in_equal_steps_from_above_zero() -> None:
    found = rates(recipe())
    assert found[:11] == pytest.approx([0.5 * (step + 1) / 11 for step in range(11)])


def test_a_constant_rate_is_constant_after_its_warm_up() -> None:
    assert set(rates(recipe(schedule="constant"))[10:]) == {0.5}


def test_a_cosine_is_half_way_down_at_half_time_and_ends_at_a_hundredth() -> None:
    found = rates(recipe())
    assert found[10] == pytest.approx(0.5)
    assert found[55] == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    assert found[99] == pytest.approx(0.5 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 89 / 90))))
    assert all(before > after for before, after in itertools.pairwise(found[10:]))


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert rates(recipe(warmup=0))[0] == 0.5


NOTHING = ("batch", "learning_rate", "frames", "resolution", "frame_noise", "canvas_noise")
PHASE: dict[str, Any] = {**dict.fromkeys(NOTHING), "steps": 10}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0: it must be at least 1"),
        ({"batch": 0}, "batch is 0: it must"),
        ({"workers": 0}, "workers is 0: it must be at least 1"),
        ({"log_every": 0}, "log_every is 0: it must"),
        ({"validate_every": -1}, "validate_every is -1: it must"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0: it must"),
        ({"batch": 3, "workers": 4}, "recipe.batch is 3, too few for 4 workers"),
        ({"workers": [2, 1]}, r"workers is \[2, 1\]: the first number must not exceed the second"),
        ({"micro_batch": 0}, "micro_batch is 0: it must be at least 1"),
        ({"ema": 1.0}, "ema is 1.0: it must be at least 0 and below 1"),
        ({"ema": -0.1}, "ema is -0.1: it must be at least 0 and below 1"),
        ({"clip": 0}, "clip is 0: it must be above 0"),
        ({"clip": -1.0}, "clip is -1.0: it must be above 0"),
        ({"learning_rate": -1}, "learning_rate is -1: it must be above 0"),
        ({"warmup": -1}, "warmup is -1: it must be at least 0"),
        ({"phases": [{**PHASE, "frame_noise": [0.5, 0.2]}]}, "phases.0.frame_noise is .* must not exceed the second"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_told_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe(**change).check()


def test_without_phases_a_recipe_is_its_own_single_part() -> None:
    (part,) = recipe().resolved_phases()
    assert (part.name, part.recipe, part.frames, part.noise) == ("", recipe(), None, {})


def test_a_phase_says_what_it_changes_and_the_recipe_the_rest() -> None:
    second = PHASE | {"steps": 20, "batch": 8, "learning_rate": 0.1, "frames": 3, "canvas_noise": [0.0, 0.1]}
    parts = recipe(phases=[PHASE, second]).resolved_phases()
    assert [part.name for part in parts] == ["phase 1 of 2", "phase 2 of 2"]
    assert parts[0].recipe == recipe(steps=10)
    assert parts[1].recipe == recipe(steps=20, batch=8, learning_rate=0.1)
    assert [part.frames for part in parts] == [None, 3]
    assert [part.noise for part in parts] == [{}, {"canvas_noise": (0.0, 0.1)}]


def test_a_phase_of_another_resolution_has_as_many_latents_as_its_pixels_hold() -> None:
    small, own = recipe(phases=[PHASE | {"resolution": [16, 32]}, PHASE]).resolved_phases()
    assert small.latent_shape((12, 8, 8), (64, 64)) == (12, 2, 4)
    assert own.latent_shape((12, 8, 8), (64, 64)) == (12, 8, 8)
    for resolution in ([20, 32], [4, 32]):
        phase, _ = recipe(phases=[PHASE | {"resolution": resolution}, PHASE]).resolved_phases()
        with pytest.raises(InputError, match=r"phase 1 of 2 has resolution .* a latent pixel covers \[8, 8\] pixels"):
            phase.latent_shape((12, 8, 8), (64, 64))


def test_the_last_phase_is_at_the_clips_own_resolution() -> None:
    with pytest.raises(InputError, match=r"the last of 2 phases has resolution \[16, 16\]"):
        recipe(phases=[PHASE, PHASE | {"resolution": [16, 16]}]).check()


def test_a_phase_that_cannot_be_followed_is_refused_with_its_recipe() -> None:
    with pytest.raises(InputError, match=r"recipe\.batch is 3, too few for 4 workers"):
        recipe(workers=4, phases=[PHASE, PHASE | {"batch": 3}]).check()


def test_a_training_may_be_moved_to_other_workers_and_nothing_else_may_change() -> None:
    moved = recipe(workers=2, micro_batch=1, keep=5, activation_checkpointing=True, compile=True)
    assert moved.result_settings() == recipe().result_settings()
    for change in ({"seed": 1}, {"batch": 8}, {"precision": "bfloat16"}, {"log_every": 5}, {"steps": 50}):
        assert recipe(**change).result_settings() != recipe().result_settings()


def test_a_number_of_workers_or_a_range_and_nothing_else() -> None:
    assert recipe(workers=3, batch=8).num_workers == (3, 3)
    assert recipe(workers=[2, 4], batch=8).num_workers == (2, 4)
    with pytest.raises(InputError, match="workers is 'many': Input should be a valid integer; workers is 'many': "):
        recipe(workers="many")
