"""Commands lead to the frame after them, in training as in sampling."""

import dataclasses
from typing import Any

import pytest
import torch

from components.foundation.config import parse, plain
from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.models.canvasmar.reference import CopyConfig, RelativeConfig
from components.models.canvasmar.values import Proposal
from components.models.conditions.interface import ActionConfig, ConditionedClips
from components.models.conditions.predictors import ActionConditioned
from components.models.layers.embeddings import patchify
from components.sampling.interface import FramePredictor
from tests.behaviour.conftest import LATENT, tiny_config

FRAMES = 5
ACTION = ActionConfig(kind="action", numbers=2, drop=0.0)
COPYING = RelativeConfig(weight=0.1, copy_still=CopyConfig(change=0.5, chance=0.4, weight=0.2))
SILENT = {"frame_noise": 0.0, "canvas_noise": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "without a canvas": {"canvas": False},
    "change": {"change": True, "history": 2},
    "relative": {"change": True, "history": 2, "local": True, "relative": COPYING},
}


def made(**choices: Any) -> CanvasMAR:
    """Return a model in whose training nothing is noised or dropped, as in sampling without noise."""
    torch.manual_seed(0)
    config = plain(tiny_config(**choices)) | {"drop": 0.0}
    if config["canvas"]:
        config["canvas"] |= {name: [0.0, 0.0] for name in SILENT}
    model = parse(CanvasMARConfig, config, where="here").build()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def clip() -> torch.Tensor:
    return torch.randn(2, FRAMES, *LATENT, generator=torch.Generator().manual_seed(1))


def commands() -> torch.Tensor:
    return torch.randn(2, FRAMES - 1, 2, generator=torch.Generator().manual_seed(2))


def trained_on(
    model: CanvasMAR, clips: torch.Tensor | ConditionedClips, *, unknown: bool = False
) -> list[torch.Tensor]:
    """Return the mask tokens and z_t of all frames that the Spatial MAR is given in a training step."""
    seen: list[torch.Tensor] = []
    hook = model.spatial.register_forward_pre_hook(lambda _, given: seen.extend(given[2:]))
    draws = model.draw(clips, Stream.of(0, (0, 1)), visible=0)
    if unknown:
        draws = dataclasses.replace(draws, no_action=torch.ones(2, dtype=torch.bool))
    with torch.no_grad():
        model(clips, draws)
    hook.remove()
    return [part.unflatten(0, (2, -1)) for part in seen]


@torch.no_grad()
def proposed(model: Any, latents: torch.Tensor) -> list[Proposal]:
    """Return the proposal of each frame after the first, the frames before it given."""
    memories = [model.remember(latents[:, :count], None) for count in range(1, FRAMES)]
    return [model.propose(memory, Stream.of(0, (0, 1)), **SILENT) for memory in memories]


def differs(one: list[Proposal], other: list[Proposal]) -> list[bool]:
    pairs = [(a.conditions[-1], b.conditions[-1]) for a, b in zip(one, other, strict=True)]
    return [not (torch.equal(a.z_t, b.z_t) and torch.equal(a.mask_tokens, b.mask_tokens)) for a, b in pairs]


def test_a_steered_model_is_what_the_sampler_asks_for() -> None:
    assert isinstance(ActionConditioned(made(condition=ACTION), commands()), FramePredictor)


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("choices", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_frame_is_proposed_in_sampling_as_in_training(choices: dict[str, Any], steered: bool) -> None:
    """Every frame, the second too, before which there is but one."""
    model = made(**choices, condition=ACTION if steered else None)
    mask_tokens, z_t = trained_on(model, ConditionedClips(clip(), commands()) if steered else clip())
    for row, proposal in enumerate(proposed(ActionConditioned(model, commands()) if steered else model, clip())):
        richest = proposal.conditions[-1]
        torch.testing.assert_close(richest.z_t, z_t[:, row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(richest.mask_tokens, mask_tokens[:, row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("history", [1, 2])
def test_only_a_canvas_with_a_history_sees_the_frame_before_the_last_beside_z_t(history: int) -> None:
    model = made(history=history)
    memory = model.remember(clip(), None)
    assert torch.equal(memory.previous, clip()[:, -2])
    other = dataclasses.replace(memory, previous=memory.previous + 1)
    canvases = [model.propose(known, Stream.of(0, (0, 1)), **SILENT).canvas for known in (memory, other)]
    assert canvases[0] is not None
    assert canvases[1] is not None
    assert torch.equal(canvases[0], canvases[1]) == (history == 1)


def test_before_the_first_frame_comes_the_first_frame() -> None:
    memory = made(history=2).remember(clip()[:, :1], None)
    assert torch.equal(memory.previous, memory.last)


@pytest.mark.parametrize("changed", range(FRAMES - 1))
def test_a_command_changes_the_frame_that_it_leads_to_and_no_other(changed: int) -> None:
    model, others = made(condition=ACTION, change=True, history=2), commands()
    others[:, changed] += 1
    expected = [row == changed for row in range(FRAMES - 1)]
    assert differs(*(proposed(ActionConditioned(model, known), clip()) for known in (commands(), others))) == expected
    trained = (trained_on(model, ConditionedClips(clip(), known)) for known in (commands(), others))
    for one, other in zip(*trained, strict=True):
        assert (one != other).flatten(2).any(-1).any(0).tolist() == expected


def test_beyond_the_last_command_a_frame_is_proposed_as_in_training_without_commands() -> None:
    model = made(condition=ACTION)
    mask_tokens, z_t = trained_on(model, ConditionedClips(clip(), commands()), unknown=True)
    known = proposed(ActionConditioned(model, commands()[:, :2]), clip())
    assert differs(known, proposed(ActionConditioned(model, commands()), clip())) == [False, False, True, True]
    assert differs(known, proposed(model, clip())) == [True, True, False, False]
    for row in (2, 3):
        torch.testing.assert_close(known[row].conditions[-1].z_t, z_t[:, row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(known[row].conditions[-1].mask_tokens, mask_tokens[:, row], atol=1e-5, rtol=1e-5)


def test_a_canvas_of_relative_tokens_shows_copied_tokens_as_they_were() -> None:
    model = made(**VARIANTS["relative"])
    proposal = proposed(model, clip())[-1]
    assert proposal.reference is not None
    assert proposal.canvas is not None
    still = proposal.reference.still
    assert still.any()
    assert torch.equal(patchify(proposal.canvas, 1)[still], patchify(clip()[:, -2], 1)[still])
