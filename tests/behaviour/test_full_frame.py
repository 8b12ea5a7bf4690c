"""Claims about full-frame diffusion."""

import dataclasses

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models import flow
from components.models.layers.embeddings import patchify
from components.sampling.rollout import rollout
from tests.behaviour.families import clips, opened


def test_sampling_uses_the_field_that_is_trained_a_clean_history_being_one_of_level_zero():
    """The loss of one frame behind clean ones, by the training pass and by the cache."""
    model, latents = opened("full_frame"), clips(2, 3)
    draws = model.draw(latents, Stream.of(0, (0, 1)))
    time = torch.tensor([[0.0, 0.0, 0.4]]).expand(2, -1)
    total = model(latents, dataclasses.replace(draws, time=time)).total
    first = model(latents[:, :2], dataclasses.replace(draws, time=time[:, :2], noise=draws.noise[:, :2])).total
    expected = 3 * total - 2 * first  # of the third frame

    x = patchify(latents[:, 2], 1)
    noised = torch.lerp(x, draws.noise[:, 2], torch.tensor(0.4))
    order = torch.arange(16).expand(2, -1)
    (under,) = model.embed(x[:, :0], order, (model.remember(latents[:, :2], None),), 16)
    (velocity,) = model.velocity_field((under,), [0.4])(noised, 0.4)
    loss = (velocity - flow.velocity(x, draws.noise[:, 2])).square().mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def test_the_field_does_not_depend_on_the_order_of_the_tokens():
    model = opened("full_frame")
    memory, x = model.remember(clips(2, 2), None), torch.randn(2, 16, 3)
    order = torch.arange(16).expand(2, -1)
    (straight,), (turned,) = (model.embed(x[:, :0], o, (memory,), 16) for o in (order, order.flip(1)))
    (a,), (b,) = (
        model.velocity_field((straight,), [0.5])(x, 0.5),
        model.velocity_field((turned,), [0.5])(x.flip(1), 0.5),
    )
    torch.testing.assert_close(a, b.flip(1), atol=1e-5, rtol=1e-5)


def test_without_history_a_frame_is_denoised_as_the_first_of_a_clip():
    """Rotary positions know distances only: frame 7 without its past is frame 0."""
    model, x = opened("full_frame"), torch.randn(2, 16, 3)
    order = torch.arange(16).expand(2, -1)
    stream = Stream.of(0, (0, 1))
    proposal = model.propose(model.remember(clips(2, 5), None), stream, frame_noise=0.0, canvas_noise=0.0)
    start = model.decoder.initial_memory()
    (late, rich), (early,) = (
        model.embed(x[:, :0], order, memories, 16) for memories in (proposal.conditions, (start,))
    )
    a, b, c = model.velocity_field((late, early, rich), [0.5])(x, 0.5)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(a, c)


def test_every_frame_has_a_noise_level_of_its_own():
    model, latents = opened("full_frame"), clips(2, 5)
    time = model.draw(latents, Stream.of(0, (0, 1))).time
    assert len(set(time.flatten().tolist())) == 10


def test_frames_that_are_denoised_together_follow_the_field_that_is_trained():
    """Each sees those before it as noised as they are: the training pass with the same level for all of them."""
    model, latents = opened("full_frame", group=2), clips(2, 4)
    x, noise = patchify(latents, 1), torch.randn(2, 4, 16, 3)
    time = torch.tensor([[0.0, 0.0, 0.4, 0.4]]).expand(2, -1)
    draws = dataclasses.replace(model.draw(latents, Stream.of(0, (0, 1))), time=time, noise=noise)
    seen = []
    model.out.register_forward_hook(lambda *given: seen.append(given[2]))
    model(latents, draws)
    noised = torch.lerp(x[:, 2:], noise[:, 2:], torch.tensor(0.4)).flatten(0, 1)
    order = torch.arange(16).expand(4, -1)
    (under,) = model.embed(noised[:, :0], order, (model.remember(latents[:, :2], None),), 16)
    (velocity,) = model.velocity_field((under,), [0.4])(noised, 0.4)
    torch.testing.assert_close(velocity, seen[0].unflatten(1, (4, -1))[:, 2:].flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_a_video_comes_in_groups_and_ends_where_it_is_asked_to(sampler):
    model = opened("full_frame", group=3)
    one_set = sampler.model_copy(update={"sets": 1, "order": "random"})
    steps = list(rollout(model, clips(2, 1), 4, Stream.of(0, (0, 1)), one_set))
    assert [step.latent.shape for step in steps] == [(2, 3, 4, 4)] * 4
    assert not torch.allclose(steps[0].latent, steps[1].latent)
    with pytest.raises(InputError, match=r"model\.group is 0: it must be at least 1"):
        opened("full_frame", group=0)


def test_a_frame_in_several_sets_is_refused_in_one_sentence(sampler):
    model = opened("full_frame")
    with pytest.raises(InputError, match=r"set sampler\.sets to 1"):
        next(rollout(model, clips(2, 2), 1, Stream.of(0, (0, 1)), sampler))
