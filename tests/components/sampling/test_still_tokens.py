"""Tokens that stand still are copied: the head has no work with them."""

from typing import Any

import torch

from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR
from components.models.canvasmar.reference import CopyConfig, RelativeConfig
from components.sampling.frame import NextSet, sample_frames
from tests.behaviour.conftest import LATENT

CHOICES = {"relative": RelativeConfig(weight=0.1, copy_still=CopyConfig(change=0.5, chance=0.5, weight=0.2))}
STEP = NextSet((-0.2, 0.5, 0.7), 5, "euler")


def asked(model: CanvasMAR) -> list[int]:
    """Return a list that grows by the number of tokens whenever the head's velocity is evaluated."""
    numbers: list[int] = []
    model.head.embed.register_forward_hook(lambda _, given, __: numbers.append(given[0].shape[:-1].numel()))
    return numbers


def context(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, *LATENT, generator=torch.Generator().manual_seed(2))


def situation(model: CanvasMAR) -> tuple[Any, ...]:
    """Return known tokens, their order, conditions, noise, and which tokens of the next set are still."""
    proposal = model.propose(model.remember(context(), None), Stream.of(0, range(3)), frame_noise=0.3, canvas_noise=0.2)
    order = Stream.of(0, range(3)).fork("order").uniform(16).argsort(dim=1)
    assert proposal.reference is not None
    still = proposal.reference.still.gather(1, order[:, 4:12])
    assert still.any()
    assert not still.all()
    return torch.randn(3, 4, 3), order, proposal.conditions, torch.randn(3, 8, 3), still


@torch.no_grad()
def test_the_head_computes_moving_tokens_only_and_gives_what_it_gives_for_all(make) -> None:
    model = make(**CHOICES)
    known, order, conditions, noise, still = situation(model)
    expected = STEP(model, known, order, conditions, noise).masked_fill(still[..., None], 0.0)
    numbers = asked(model)
    found = STEP(model, known, order, conditions, noise, still)
    assert numbers == [int((~still).sum())] * 5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_set_without_motion_asks_nothing_of_the_head(make) -> None:
    model = make(**CHOICES)
    known, order, conditions, noise, still = situation(model)
    numbers = asked(model)
    assert not STEP(model, known, order, conditions, noise, torch.ones_like(still)).any()
    assert numbers == []


@torch.no_grad()
def test_in_a_sampled_frame_still_tokens_are_the_last_frames_and_others_are_sampled(make, sampler) -> None:
    model = make(**CHOICES)
    proposals: list[Any] = []
    propose = model.propose
    model.propose = lambda *given, **noises: proposals.append(propose(*given, **noises)) or proposals[-1]
    (frame,) = sample_frames(model, model.remember(context(), None), Stream.of(0, range(3)), sampler)
    still = proposals[0].reference.still.view(3, 1, *LATENT[1:]).expand(-1, LATENT[0], -1, -1)
    assert still.any()
    assert not still.all()
    assert torch.equal(frame.latent[still], context()[:, -1][still])
    assert (frame.latent[~still] != context()[:, -1][~still]).all()


@torch.no_grad()
def test_a_clip_with_copied_tokens_is_the_same_in_any_batch(make, sampler) -> None:
    model = make(**CHOICES)
    (whole,) = sample_frames(model, model.remember(context(), None), Stream.of(0, range(3)), sampler)
    (alone,) = sample_frames(model, model.remember(context()[1:2], None), Stream.of(0, (1,)), sampler)
    torch.testing.assert_close(whole.latent[1:2], alone.latent, atol=1e-4, rtol=1e-4)
