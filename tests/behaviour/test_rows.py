"""Some frames of a clip are learned token by token, the canvases of all."""

import dataclasses
import itertools

import pytest
import torch

from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR
from components.models.canvasmar.reference import RelativeConfig
from components.models.canvasmar.values import Draws
from components.models.conditions.interface import ActionConfig, ConditionedClips
from tests.behaviour.conftest import LATENT

ROWS = 4  # of a clip of five frames
VARIANTS = {"absolute": {}, "relative": {"change": True, "relative": RelativeConfig(weight=0.1, copy_still=None)}}


def clips(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, ROWS + 1, *LATENT, generator=torch.Generator().manual_seed(1))


def chosen(draws: Draws, rows: tuple[int, ...]) -> Draws:
    """Return the draws of these frames of each clip, out of those of all."""
    names = ("order", "time", "noise", "canvas_strength", "canvas_noise", "no_history", "no_canvas")
    some = {name: getattr(draws, name)[:, list(rows)] for name in names}
    return dataclasses.replace(draws, **some, rows=torch.tensor(rows).expand(len(draws.order), -1))


def test_a_step_draws_and_learns_so_many_frames_of_each_clip_each_once(make) -> None:
    model = make(rows=2)
    draws = model.draw(clips(8), Stream.of(0, range(8)), visible=6)
    assert draws.rows is not None
    assert draws.rows.shape == (8, 2)
    assert (draws.rows[:, 0] != draws.rows[:, 1]).all()
    assert model.supervised_tokens(draws) == 8 * 2 * 10


def test_every_frame_is_learned_equally_often(make) -> None:
    rows = make(rows=2).draw(clips(1).expand(400, -1, -1, -1, -1), Stream.of(0, range(400))).rows
    assert rows.flatten().bincount().tolist() == pytest.approx([200] * ROWS, abs=40)  # four standard deviations


def test_as_many_rows_as_frames_are_all_frames(make) -> None:
    found = [make(rows=rows).draw(clips(), Stream.of(0, (0, 1))) for rows in (None, ROWS, ROWS + 3)]
    assert [draws.rows for draws in found] == [None] * 3
    assert all(torch.equal(draws.noise, found[0].noise) for draws in found)


@pytest.mark.parametrize("choices", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_canvases_and_scales_of_all_frames_are_learned_whatever_the_rows(make, choices) -> None:
    terms = []
    for rows in (None, 1):
        model: CanvasMAR = make(**choices, rows=rows)
        terms.append(model(clips(), model.draw(clips(), Stream.of(0, (0, 1)))).terms)
    assert terms[0].keys() == terms[1].keys()
    for name in terms[0].keys() - {"flow"}:
        torch.testing.assert_close(terms[1][name], terms[0][name])
    assert terms[1]["flow"] != terms[0]["flow"]


@pytest.mark.parametrize("learned", range(ROWS))
def test_tokens_of_other_frames_are_not_learned(make, learned: int) -> None:
    """The newest frame is no other's past, so that it has an effect on the flow loss only where it is learned."""
    model = make(rows=1)
    draws = chosen(make().draw(clips(), Stream.of(0, (0, 1))), (learned,))
    changed = clips()
    changed[:, -1] += 1
    before, after = (model(latents, draws).terms for latents in (clips(), changed))
    assert (before["flow"] != after["flow"]) == (learned == ROWS - 1)
    assert before["canvas"] != after["canvas"]


@pytest.mark.parametrize("choices", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_loss_of_rows_is_on_average_that_of_all_frames(make, choices, rows: int) -> None:
    """Over all ways to choose them, which are equally likely."""
    model: CanvasMAR = make(**choices)
    draws = model.draw(clips(), Stream.of(0, (0, 1)))
    ways = list(itertools.combinations(range(ROWS), rows))
    found = torch.stack([model(clips(), chosen(draws, way)).terms["flow"] for way in ways]).mean()
    torch.testing.assert_close(found, model(clips(), draws).terms["flow"])


def test_a_sample_draws_the_same_rows_and_commands_in_any_batch(make) -> None:
    model = make(rows=2, condition=ActionConfig(kind="action", numbers=2, drop=0.5))
    latents = clips(3)
    given = ConditionedClips(latents, torch.zeros(3, ROWS, 2))
    whole, part = model.draw(given, Stream.of(5, (7, 8, 9))), model.draw(given[1:2], Stream.of(5, (8,)))
    for field in dataclasses.fields(whole):
        if field.name != "visible":
            assert torch.equal(getattr(whole, field.name)[1:2], getattr(part, field.name)), field.name
