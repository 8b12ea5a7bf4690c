"""Claims about conditions: none, a class and a text are one interface; guidance, dropping, and what does not fit."""

import dataclasses

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.conditions.interface import ConditionedClips
from components.models.conditions.predictors import CaptionConditioned
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from components.training.loop import Data, Training, fit
from tests.behaviour.families import clips, first, opened, tiny
from tests.behaviour.test_families import recipe

TEXT = {"kind": "text", "encoder": "some", "tokens": 5, "numbers": 6, "drop": 0.1}
LABEL = {"kind": "label", "classes": ["lift", "pull", "push"], "drop": 0.1}


def conditioned(batch: int = 2, frames: int = 4) -> ConditionedClips:
    given = torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(2))
    given[:, 3:] = 0  # behind the text's end
    return ConditionedClips(clips(batch, frames), given)


@pytest.fixture
def plain(sampler):
    return sampler.model_copy(update={"order": "random", "temporal_scale": 1.0})


def test_the_condition_reaches_every_prediction_and_a_dropped_one_none():
    model, both = opened("videomar", condition=TEXT), conditioned()
    draws = model.draw(both, Stream.of(0, (0, 1)))
    kept, dropped = (dataclasses.replace(draws, dropped=torch.full((2,), flag)) for flag in (False, True))
    other = ConditionedClips(both.latents, both.condition * 2)
    assert model(both, kept).total != model(other, kept).total
    assert model(both, dropped).total == model(other, dropped).total
    empty = ConditionedClips(both.latents, torch.zeros_like(both.condition))
    assert model(empty, kept).total == model(both, dropped).total


def test_conditions_are_dropped_as_often_as_is_said_each_clip_by_its_own_chance():
    model, both = tiny("videomar", condition=TEXT), conditioned(1)
    shares = [bool(model.draw(both, Stream.of(0, (sample,))).dropped) for sample in range(3000)]
    assert sum(shares) / 3000 == pytest.approx(0.1, abs=0.02)  # less than four standard errors


def test_a_model_with_a_condition_is_sampled_as_any_other_and_without_one_too(plain):
    model, both = opened("videomar", condition=TEXT), conditioned()
    given = CaptionConditioned(model, both.condition)
    assert isinstance(given, FramePredictor)
    with_it, without = first(given, both.latents[:, :2], plain), first(model, both.latents[:, :2], plain)
    assert not torch.allclose(with_it, without)
    empty = CaptionConditioned(model, torch.zeros_like(both.condition))
    torch.testing.assert_close(first(empty, both.latents[:, :2], plain), without)
    frames = list(rollout(given, both.latents[:, :2], 3, Stream.of(0, (0, 1)), plain))
    torch.testing.assert_close(frames[0].latent, with_it)


def test_guidance_walks_from_no_condition_to_the_condition_and_beyond(plain):
    model, both = opened("videomar", condition=TEXT), conditioned()
    given, context = CaptionConditioned(model, both.condition), both.latents[:, :2]
    one_set = plain.model_copy(update={"sets": 1, "flow_steps": 1})
    none, one, two, linear = (
        first(given, context, one_set.model_copy(update=change))
        for change in (
            {"temporal_scale": 0.0},
            {"temporal_scale": 1.0},
            {"temporal_scale": 2.0},
            {"temporal_scale": 2.0, "guidance": "linear"},
        )
    )
    torch.testing.assert_close(none, first(model, context, one_set))
    torch.testing.assert_close(two, 2 * one - none, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(linear, two)  # the only set is the last one, where the scale is whole
    assert not torch.allclose(one, none)
    undropped = CaptionConditioned(opened("videomar", condition={**TEXT, "drop": 0.0}), both.condition)
    with pytest.raises(InputError, match="trained with drop 0"):
        first(undropped, context, one_set.model_copy(update={"temporal_scale": 2.0}))


def test_training_and_sampling_give_the_same_z_under_a_condition():
    from components.models.layers.embeddings import patchify

    model, both = opened("videomar", condition=TEXT), conditioned()
    draws = dataclasses.replace(model.draw(both, Stream.of(0, (0, 1))), target=3, dropped=torch.zeros(2).bool())
    seen = []
    model.head.losses = lambda x, z, noise, time: seen.append(z) or {"flow": z.sum()}
    model(both, draws)
    known = patchify(both.latents[:, 3], 1).gather(1, draws.order[..., None].expand(-1, -1, 3))[:, : draws.visible]
    memory = model.remember(both.latents[:, :3], model.initial_memory(both.condition))
    (cached,) = model.embed(known, draws.order, (memory,), seen[0].shape[1])
    torch.testing.assert_close(cached, model.head.condition(seen[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("condition", [TEXT, LABEL])
def test_the_loop_trains_it_and_every_parameter_gets_a_gradient(condition):
    model = opened("videomar", condition=condition).train()
    given = torch.eye(3)[torch.arange(8) % 3][:, None] if condition is LABEL else torch.randn(8, 5, 6)
    both = ConditionedClips(clips(8), given)
    draws = model.draw(both, Stream.of(0, range(8)))
    draws = dataclasses.replace(draws, dropped=torch.arange(8) < 2)
    model(both, draws).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    training = Training(model, lambda module: module, recipe(batch=8, micro_batch=4, precision="float32"))
    data = Data(lambda start: iter([(tuple(range(8)), both)] * 4), [(tuple(range(8)), both)])
    assert list(fit(training, data))[-1].metrics["validation_flow"] > 0


def test_what_does_not_fit_is_told_in_one_sentence():
    both, stream = conditioned(), Stream.of(0, (0, 1))
    with pytest.raises(InputError, match=r"model\.condition is null, but the clips have captions"):
        tiny("videomar").draw(both, stream)
    with pytest.raises(InputError, match="is of kind text, but the clips have no captions, labels or actions"):
        tiny("videomar", condition=TEXT).draw(both.latents, stream)
    with pytest.raises(InputError, match=r"has 5 vectors of 6 channels, but model\.condition expects 5 vectors of 7"):
        tiny("videomar", condition={**TEXT, "numbers": 7}).draw(both, stream)
    with pytest.raises(InputError, match="trained without conditions"):
        CaptionConditioned(tiny("videomar"), both.condition).remember(both.latents, None)
    with pytest.raises(InputError, match="at least one latent frame of context"):
        CaptionConditioned(tiny("videomar", condition=TEXT), both.condition).remember(both.latents[:, :0], None)
