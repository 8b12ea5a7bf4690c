"""Claims about sampled frames and videos."""

import dataclasses

import pytest
import torch

from components.foundation.config import parse, plain
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models import guidance, masking
from components.sampling.frame import SamplerConfig, sample_frames
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from tests.behaviour.conftest import LATENT


def context(batch: int = 3, frames: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, *LATENT, generator=torch.Generator().manual_seed(2))


def video(model, sampler, batch=3, frames=3, seed=0) -> torch.Tensor:
    steps = rollout(model, context(batch), frames, Stream.of(seed, range(batch)), sampler)
    return torch.stack([step.latent for step in steps], dim=1)


def test_the_model_is_what_the_sampler_asks_for(model):
    assert isinstance(model, FramePredictor)


def test_a_video_is_the_same_twice_and_another_with_another_seed(model, sampler):
    assert torch.equal(video(model, sampler), video(model, sampler))
    assert not torch.allclose(video(model, sampler), video(model, sampler, seed=1))


def test_a_clip_is_the_same_in_any_batch(model, sampler):
    torch.testing.assert_close(video(model, sampler)[:1], video(model, sampler, batch=1), atol=1e-4, rtol=1e-4)


def test_a_longer_rollout_begins_with_the_shorter_one(model, sampler):
    assert torch.equal(video(model, sampler, frames=4)[:, :2], video(model, sampler, frames=2))


def test_memory_in_a_rollout_equals_starting_again_with_all_frames(model, sampler):
    steps = list(rollout(model, context(), 2, Stream.of(0, range(3)), sampler))
    longer = torch.cat([context(), steps[0].latent[:, None]], dim=1)
    with torch.no_grad():
        (again,) = sample_frames(model, model.remember(longer, None), Stream.of(0, range(3)).fork("frame", 1), sampler)
    torch.testing.assert_close(again.latent, steps[1].latent, atol=1e-4, rtol=1e-4)


def test_scales_of_one_are_the_richest_condition_alone(model, sampler):
    calls = []
    embed = model.embed
    model.embed = lambda known, order, conditions, count: (
        calls.append(len(conditions)) or embed(known, order, conditions, count)
    )
    one = sampler.model_copy(update={"temporal_scale": 1.0, "canvas_scale": 1.0})
    video(model, one, frames=1)
    assert set(calls) == {1}
    calls.clear()
    video(model, sampler, frames=1)
    assert set(calls) == {3}
    calls.clear()
    video(model, sampler.model_copy(update={"canvas_scale": 1.2}), frames=1)
    assert set(calls) == {2}


@pytest.mark.parametrize(("scale", "kept"), [(1.0, -1), (0.0, 0)])
def test_scales_of_one_or_zero_give_what_one_condition_alone_gives_bit_for_bit(model, sampler, scale, kept):
    scales = {"temporal_scale": scale, "canvas_scale": scale}
    expected = video(model, sampler.model_copy(update=scales))
    propose = model.propose

    def alone(*given, **noises):
        proposal = propose(*given, **noises)
        return dataclasses.replace(proposal, conditions=(proposal.conditions[kept],))

    model.propose = alone
    assert torch.equal(video(model, sampler.model_copy(update={"temporal_scale": 7.0})), expected)


def test_guidance_of_a_model_trained_without_dropping_is_refused(config, sampler):
    model = config.model_copy(update={"drop": 0.0}).build().eval()
    one = {"temporal_scale": 1.0, "canvas_scale": 1.0}
    assert torch.isfinite(video(model, sampler.model_copy(update=one), frames=1)).all()
    for name in one:
        with pytest.raises(InputError, match=r"trained with drop 0; .*_scale to 1, or train with model.drop above 0"):
            video(model, sampler.model_copy(update=one | {name: 1.5}), frames=1)


def test_linear_guidance_grows_to_the_full_scale_with_the_frame(model, sampler):
    told = []
    combine = guidance.combine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guidance, "combine", lambda scores, weights: told.append(weights) or combine(scores, weights))
        linear = sampler.model_copy(update={"guidance": "linear", "flow_steps": 1})
        video(model, linear, frames=1)
    sizes = masking.set_sizes(16, 4)
    done = [sum(sizes[: k + 1]) / 16 for k in range(4)]
    expected = [guidance.coefficients((1 + 0.2 * share, 1 + 0.5 * share)) for share in done]
    assert told == [pytest.approx(weights) for weights in expected]
    assert told[-1] == pytest.approx(guidance.coefficients((1.2, 1.5)))


@pytest.mark.parametrize(("solver", "expected"), [("euler", 5), ("heun", 10), ("adams_bashforth", 5)])
def test_the_head_is_evaluated_as_often_in_a_set_as_the_solver_asks(model, sampler, solver, expected):
    calls = []
    model.head.embed.register_forward_hook(lambda *_: calls.append(1))
    video(model, sampler.model_copy(update={"solver": solver}), frames=1)
    assert len(calls) == 4 * expected


def test_without_a_canvas_the_canvas_scale_does_not_matter(make, sampler):
    model = make(canvas=False)
    other = sampler.model_copy(update={"canvas_scale": 3.0})
    assert torch.equal(video(model, sampler), video(model, other))


def test_every_token_is_generated_in_exactly_one_set(model, sampler):
    for frame in rollout(model, context(), 2, Stream.of(0, range(3)), sampler):
        assert frame.order.shape == (3, 16)
        counts = torch.stack([(frame.order == k).sum(1) for k in range(4)], dim=1)
        assert (counts == counts[0]).all()
        assert counts.sum(1).tolist() == [16, 16, 16]


def test_sampling_set_by_set_equals_a_naive_loop_over_the_grid(model, sampler):
    """The same frame by masked tokens in the order of the grid, one condition at a time and no shared projection."""
    chance = Stream.of(0, range(3))
    with torch.no_grad():
        memory = model.remember(context(), None)
        (fast,) = sample_frames(model, memory, chance, sampler)
        proposal = model.propose(memory, chance.fork("proposal"), frame_noise=0.3, canvas_noise=0.2)
        weights = guidance.coefficients((1.2, 1.5))
        noise = chance.fork("tokens").normal(16, 3)
        sizes = masking.set_sizes(16, 4)
        order = fast.order
        grid, place = torch.zeros(3, 16, 3), 0
        ranks = masking.partition(
            proposal.staticness, chance.fork("order").uniform(4, 16), sizes, rule="motion_aware", temperature=6.5
        )
        for step, size in enumerate(sizes):
            for row in range(3):
                known = (order[row] < step).nonzero().flatten()
                ids = ranks[row, place : place + size]
                rest = torch.tensor(
                    [j for j in range(16) if j not in known.tolist() and j not in ids.tolist()], dtype=torch.long
                )
                line = torch.cat([known, ids, rest])[None]
                x = noise[row : row + 1, place : place + size]
                for k in range(5):
                    total = torch.zeros_like(x)
                    for weight, condition in zip(weights, proposal.conditions, strict=True):
                        z = model.spatial(
                            grid[row : row + 1, known],
                            line,
                            condition.mask_tokens[row : row + 1],
                            condition.z_t[row : row + 1],
                        )
                        time = torch.full((1, size), 1 - k / 5)
                        total += weight * model.head.velocity(x, time, model.head.condition(z[:, :size]))
                    x = x - total / 5
                grid[row, ids] = x[0]
            place += size
    torch.testing.assert_close(model.frame(grid), fast.latent, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sets": 17}, "16 tokens"),
        ({"sets": 0}, "sets"),
        ({"flow_steps": 0}, "flow_steps"),
        ({"frame_noise": 1.5}, "frame_noise"),
        ({"noise_temperature": 0.0}, "noise_temperature"),
        ({"noise_temperature": 2.1}, "noise_temperature"),
        ({"late_temperature": 0.0}, "late_temperature"),
        ({"late_temperature": 1.1}, "late_temperature"),
    ],
)
def test_impossible_settings_are_told_in_one_sentence(model, sampler, change, words):
    with pytest.raises(InputError, match=words):
        video(model, parse(SamplerConfig, plain(sampler) | change, where="sampler"), frames=1)


def test_a_context_with_nan_is_refused(model, sampler):
    broken = context()
    broken[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        next(rollout(model, broken, 1, Stream.of(0, range(3)), sampler))


def test_a_video_of_nothing_needs_a_model_that_has_learned_first_frames(make, sampler):
    nothing = torch.empty(3, 0, *LATENT)
    with pytest.raises(InputError, match="first_frame: true"):
        next(rollout(make(), nothing, 1, Stream.of(0, range(3)), sampler))
    first, second = rollout(make(first_frame=True), nothing, 2, Stream.of(0, range(3)), sampler)
    assert first.canvas is None
    assert second.canvas is not None
    assert first.latent.shape == second.latent.shape == (3, *LATENT)
    assert torch.isfinite(second.latent).all()


def test_a_long_rollout_goes_on_past_the_window_of_memory(model, sampler):
    fast = sampler.model_copy(update={"flow_steps": 1, "sets": 2})
    latents = video(model, fast, batch=1, frames=64)
    assert latents.shape == (1, 64, *LATENT)
    assert torch.isfinite(latents).all()


def test_the_temperature_falls_from_one_frame_to_the_next_by_the_papers_formula(sampler):
    cooling = sampler.model_copy(update={"late_temperature": 0.9})
    assert [cooling.noise_scale(t) for t in range(5)] == pytest.approx([0.9 + 10 ** -(t + 1) for t in range(5)])
    assert {sampler.noise_scale(t) for t in range(5)} == {1.0}


def test_the_temperature_leaves_the_first_frame_alone_and_scales_the_noise_of_the_others(model, sampler):
    cooling = sampler.model_copy(update={"late_temperature": 0.9})
    warm, cool = video(model, sampler), video(model, cooling)
    assert torch.equal(warm[:, 0], cool[:, 0])
    assert not torch.allclose(warm[:, 1], cool[:, 1])
    model.velocity_field = lambda embeddings, _: (
        lambda x, __: tuple(torch.zeros_like(x) for _ in embeddings)
    )  # noise stays noise
    torch.testing.assert_close(video(model, cooling)[:, 1], 0.91 * video(model, sampler)[:, 1])


def test_the_noise_temperature_scales_the_noise_of_every_frame(model, sampler):
    cool = sampler.model_copy(update={"noise_temperature": 0.5})
    assert {cool.noise_scale(t) for t in range(5)} == {0.5}
    both = cool.model_copy(update={"late_temperature": 0.9})
    assert [both.noise_scale(t) for t in range(3)] == pytest.approx([0.5, 0.5 * 0.91, 0.5 * 0.901])
    model.velocity_field = lambda embeddings, _: (
        lambda x, __: tuple(torch.zeros_like(x) for _ in embeddings)
    )  # noise stays noise
    warm, cool = (one.model_copy(update={"order": "random"}) for one in (sampler, cool))  # not led by the history
    torch.testing.assert_close(video(model, cool), 0.5 * video(model, warm))


def test_without_noise_samples_of_different_seeds_agree(model, sampler):
    """The order and the canvas, the other places of chance, are fixed here."""
    fixed = sampler.model_copy(update={"order": "greedy", "frame_noise": 0.0, "canvas_noise": 0.0})
    cold = fixed.model_copy(update={"noise_temperature": 1e-6})
    torch.testing.assert_close(video(model, cold, seed=0), video(model, cold, seed=1), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(video(model, fixed, seed=0), video(model, fixed, seed=1), atol=1e-3, rtol=1e-3)
