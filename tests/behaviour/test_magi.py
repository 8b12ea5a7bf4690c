"""Claims about complete teacher forcing."""

import dataclasses

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.layers.attention import complete_teacher_forcing
from components.models.layers.embeddings import patchify
from tests.behaviour.families import clips, opened, tiny


def captured(model, latents, chosen):
    """z of the masked tokens, row by row."""
    seen = []
    losses, model.head.losses = model.head.losses, lambda x, z, noise, time: seen.append(z) or {"flow": z.sum()}
    model(latents, chosen)
    model.head.losses = losses
    return seen[0].unflatten(1, (latents.shape[1] - 1, -1))


def quiet(model, latents):
    """Draws without noise on the history."""
    chosen = model.draw(latents, Stream.of(0, range(len(latents))))
    return dataclasses.replace(chosen, level=torch.zeros_like(chosen.level))


def test_masked_frames_see_the_clean_frames_before_them_and_themselves():
    assert complete_teacher_forcing(2, 1, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 1],
    ]


def test_every_masked_frame_is_predicted_as_in_sampling_from_complete_frames():
    model, latents = opened("magi"), clips(2, 4)
    chosen = quiet(model, latents)
    z = captured(model, latents, chosen)
    memory = None
    for row in range(3):
        memory = model.remember(latents[:, row : row + 1], memory)
        order = chosen.order[:, row]
        known = patchify(latents[:, row + 1], 1).gather(1, order[..., None].expand(-1, -1, 3))[:, : chosen.visible]
        (cached,) = model.embed(known, order, (memory,), z.shape[2])
        torch.testing.assert_close(cached, model.head.condition(z[:, row]), atol=1e-5, rtol=1e-5)


def test_hidden_tokens_reach_the_rows_after_theirs_through_the_clean_copy_alone():
    model, latents = opened("magi"), clips(2, 4)
    chosen = quiet(model, latents)
    changed = latents.flatten(3).clone()
    hidden = chosen.order[:, 1, chosen.visible :]  # of frame 2
    changed[:, 2].scatter_add_(2, hidden[:, None].expand(-1, 3, -1), torch.ones(2, 3, hidden.shape[1]))
    before, after = (captured(model, x, chosen) for x in (latents, changed.unflatten(3, (4, 4))))
    same = (before == after).flatten(2).all(2).all(0)
    assert same.tolist() == [True, True, False]


def test_a_higher_level_adds_more_noise_to_the_history_and_level_zero_none():
    model, latents = opened("magi"), clips(2, 4)
    chosen = quiet(model, latents)
    with torch.no_grad():
        model.level.weight.zero_()  # what is left is the noise itself
    zs = [captured(model, latents, dataclasses.replace(chosen, level=torch.full((2,), level))) for level in (0, 1, 5)]
    other = dataclasses.replace(chosen, noise=chosen.noise + 1)
    assert torch.equal(zs[0], captured(model, latents, other))
    assert (zs[1] - zs[0]).square().mean() < (zs[2] - zs[0]).square().mean()


def test_levels_of_history_are_drawn_equally_often():
    model, latents = tiny("magi"), clips(1, 2)
    levels = [int(model.draw(latents, Stream.of(0, (sample,))).level) for sample in range(600)]
    assert [levels.count(level) / 600 for level in range(6)] == pytest.approx([1 / 6] * 6, abs=0.05)


@pytest.mark.parametrize("change", [{"history_levels": 0}, {"history_noise": 1.5}])
def test_impossible_levels_are_told_in_one_sentence(change):
    with pytest.raises(InputError, match=r"model\.history_\w+ is [\d.]+: it must be at least"):
        tiny("magi", **change)
