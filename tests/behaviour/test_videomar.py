"""Claims about VideoMAR alone: its next-frame diffusion loss, its causality, its cache."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.foundation import checkpoint
from components.foundation.randomness import Stream
from components.models.layers.attention import frame_causal
from components.models.layers.embeddings import patchify
from components.models.relatives import videomar
from components.sampling.rollout import rollout
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
    model.head.losses = lambda x, z, noise, time: seen.append(z) or {"flow": z.sum()}
    model(latents, chosen)
    known = patchify(latents[:, 3], 1).gather(1, chosen.order[..., None].expand(-1, -1, 3))[:, : chosen.visible]
    memory = model.remember(latents[:, :3], None)
    (cached,) = model.embed(known, chosen.order, (memory,), seen[0].shape[1])
    torch.testing.assert_close(cached, model.head.condition(seen[0]), atol=1e-5, rtol=1e-5)


def test_the_loss_is_on_masked_tokens_alone():
    model, latents = opened("videomar"), clips()
    chosen, seen = draws(model, latents), []
    model.head.losses = lambda x, z, noise, time: seen.append(x) or {"flow": z.sum()}
    model(latents, chosen)
    tokens = patchify(latents[:, chosen.target], 1)
    hidden = chosen.order[:, chosen.visible :]
    assert torch.equal(seen[0], tokens.gather(1, hidden[..., None].expand(-1, -1, 3)))


def test_under_a_total_mask_training_and_cached_sampling_would_part(monkeypatch):
    """Frame-wise causality is what makes the cache exact: clean frames that see the masked one are other frames."""
    model, latents = opened("videomar"), clips(2, 4)
    chosen = dataclasses.replace(draws(model, latents), target=3)
    seen = []
    model.head.losses = lambda x, z, noise, time: seen.append(z) or {"flow": z.sum()}
    model(latents, chosen)
    monkeypatch.setattr(videomar, "frame_causal", lambda t, n, device: torch.ones(t * n, t * n, dtype=torch.bool))
    model(latents, chosen)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_a_larger_grid_is_trained_on_from_a_smaller_ones_weights_without_anything_new(tmp_path):
    """Progressive resolution: a row's `start` is all it takes, positions are not learned."""
    small = opened("videomar")
    checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, small.state_dict())
    large = tiny("videomar", latent=[3, 6, 5])
    assert checkpoint.begin_with(tmp_path / checkpoint.WEIGHTS, large, ()) == []
    assert torch.equal(large.decoder.embed.weight, small.decoder.embed.weight)
    latents = torch.randn(2, 3, 3, 6, 5)
    assert torch.isfinite(large(latents, draws(large, latents)).total)


class Uncached:
    """The same model without a cache: all frames so far go through all blocks for every set of tokens."""

    def __init__(self, model):
        self.model = model
        self.group, self.tokens, self.channels = model.group, model.tokens, model.channels
        self.velocity_field, self.frame = model.velocity_field, model.frame
        self.guidable, self.most_sets = model.guidable, model.most_sets

    def remember(self, frames, memory):
        return frames if memory is None else torch.cat([memory, frames], dim=1)

    def propose(self, memory, stream, *, frame_noise, canvas_noise):
        constant = torch.ones(len(memory), self.tokens)
        return SimpleNamespace(conditions=(memory,), staticness=constant, canvas=None, static_scale=1.0, reference=None)

    def embed(self, known, order, conditions, count):
        ((past,), model) = (conditions, self.model)
        frames = past.shape[1]
        clean = model.embed_clean(patchify(past, 1)).flatten(1, 2)
        x = torch.cat([clean, model.with_mask_tokens(known[:, None])[:, 0]], dim=1)
        behind = model.decoder.angles(0, frames).flatten(0, 1).expand(len(past), -1, -1)
        angle = torch.cat([behind, model.decoder.angles_of(order[:, None], frames)[:, 0]], dim=1)
        z = model.decoder(x, angle[:, None], frame_causal(frames + 1, self.tokens, x.device))
        return (model.head.condition(z[:, -self.tokens :][:, known.shape[1] :][:, :count]),)


def test_25_frames_with_the_cache_are_those_without_it_at_a_fourth_of_the_arithmetic_or_less(sampler):
    model = opened(
        "videomar", decoder={"width": 32, "heads": 2, "layers": 2, "norm_first": False, "extent": [25, 6, 6]}
    )
    plain = sampler.model_copy(update={"order": "random", "temporal_scale": 1.0, "flow_steps": 1})
    operations, videos = [], []
    for predictor in (model, Uncached(model)):
        with FlopCounterMode(display=False) as counter:
            steps = rollout(predictor, clips(2, 1), 24, Stream.of(0, (0, 1)), plain)
            videos.append(torch.stack([step.latent for step in steps], dim=1))
        operations.append(counter.get_total_flops())
    torch.testing.assert_close(videos[0], videos[1], atol=1e-3, rtol=1e-3)
    assert operations[1] > 4 * operations[0]
