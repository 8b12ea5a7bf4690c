"""Claims about VideoMAR alone: its next-frame diffusion loss."""

import dataclasses

import pytest
import torch

from components.nn.embeddings import patchify
from components.randomness import Stream
from tests.behaviour.families import clips, opened, tiny


def draws(model, latents, step=0):
    return model.draw(latents, Stream.of(0, range(len(latents))).fork("step", step))


def test_the_target_is_uniform_over_all_frames_but_the_first():
    model, latents = tiny("videomar"), clips(1, 5)
    targets = [draws(model, latents, step).target for step in range(400)]
    shares = [targets.count(frame) / 400 for frame in range(5)]
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([0.25] * 4, abs=0.07)


def test_frames_after_the_target_have_no_part_in_the_loss_and_those_before_have():
    model, latents = opened("videomar"), clips()
    chosen = dataclasses.replace(draws(model, latents), target=2)
    losses = {}
    for frame in (None, 0, 1, 3, 4):
        changed = latents.clone()
        if frame is not None:
            changed[:, frame] += 1
        losses[frame] = model(changed, chosen).total.item()
    assert losses[3] == losses[4] == losses[None]
    assert len({losses[None], losses[0], losses[1]}) == 3


def test_training_and_sampling_give_the_same_z():
    """One pass over all frames, and the frame under way on top of the cache."""
    model, latents = opened("videomar"), clips(2, 4)
    chosen = dataclasses.replace(draws(model, latents), target=3)
    seen = []
    model.head.loss = lambda x, z, noise, time: seen.append(z) or z.sum()
    model(latents, chosen)
    known = patchify(latents[:, 3], 1).gather(1, chosen.order[..., None].expand(-1, -1, 3))[:, : chosen.visible]
    memory = model.remember(latents[:, :3], None)
    (cached,) = model.embed(known, chosen.order, (memory,), seen[0].shape[1])
    torch.testing.assert_close(cached, model.head.condition(seen[0]), atol=1e-5, rtol=1e-5)


def test_the_loss_is_on_masked_tokens_alone():
    model, latents = opened("videomar"), clips()
    chosen, seen = draws(model, latents), []
    model.head.loss = lambda x, z, noise, time: seen.append(x) or z.sum()
    model(latents, chosen)
    tokens = patchify(latents[:, chosen.target], 1)
    hidden = chosen.order[:, chosen.visible :]
    assert torch.equal(seen[0], tokens.gather(1, hidden[..., None].expand(-1, -1, 3)))
