"""Claims that hold for every model that runs one transformer over all frames: VideoMAR, MAGI, full-frame diffusion."""

import dataclasses

import pytest
import torch

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models import serialization
from components.models.serialization import ModelDescription
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from components.training.loop import Data, Trainable, Training, fit
from components.training.optimizer import HasNoWeightDecay, RecipeConfig
from tests.behaviour.conftest import LATENT
from tests.behaviour.families import KINDS, clips, opened, tiny

EVERY = pytest.mark.parametrize("kind", KINDS)
MASKED = pytest.mark.parametrize("kind", ["videomar", "magi"])


@pytest.fixture
def one_set(sampler):
    """What every kind can follow."""
    return sampler.model_copy(update={"sets": 1, "order": "random", "temporal_scale": 1.5})


def video(model, sampler, batch=3, frames=3, given=2) -> torch.Tensor:
    steps = rollout(model, clips(batch, given), frames, Stream.of(0, range(batch)), sampler)
    return torch.stack([step.latent for step in steps], dim=1)


@EVERY
def test_the_model_is_what_the_sampler_and_the_loop_ask_for(kind):
    model = tiny(kind)
    assert isinstance(model, FramePredictor)
    assert isinstance(model, Trainable)


@EVERY
def test_the_past_does_not_see_the_future(kind):
    model = opened(kind)
    latents = clips()
    changed = latents.clone()
    changed[:, 3:] += 1
    before, after = (model.remember(x, None).layers for x in (latents, changed))
    for a, b in zip(before, after, strict=True):
        same = (a.keys == b.keys).all(3).all(1).all(0).unflatten(0, (5, model.tokens)).all(1)
        assert same.tolist() == [True, True, True, False, False]


@EVERY
def test_frames_remembered_one_by_one_are_frames_seen_together(kind):
    """The cache holds what one frame-causal pass over all frames gives, to 1e-5."""
    from components.models.layers.attention import frame_causal
    from components.models.layers.embeddings import patchify

    model, latents = opened(kind), clips()
    x = patchify(latents, 1)
    condition = () if kind != "full_frame" else (model._level(torch.zeros(2, 5)),)
    x = (model.decoder.embed(x) if kind == "full_frame" else model.embed_clean(x)).flatten(1, 2)
    angle, mask = model.decoder.angles(0, 5).flatten(0, 1), frame_causal(5, model.tokens, x.device)
    memory = model.remember(latents, None)
    for block, cached in zip(model.decoder.blocks, memory.layers, strict=True):
        x, seen = block.extend(x, None, mask, angle, *condition)
        torch.testing.assert_close(cached.keys, seen.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cached.values, seen.values, atol=1e-5, rtol=1e-5)


@EVERY
def test_remembering_does_not_change_the_memory_it_starts_from(kind):
    model = opened(kind)
    memory = model.remember(clips()[:, :2], None)
    keys = memory.layers[0].keys.clone()
    model.remember(clips()[:, 2:3], memory)
    assert torch.equal(memory.layers[0].keys, keys)
    assert memory.frames == 2


@MASKED
def test_z_of_hidden_tokens_does_not_see_their_values_but_sees_the_visible_ones(kind):
    """In training: hidden values reach the loss as its target alone; so with the target held, nothing changes."""
    model, latents = opened(kind), clips(frames=2)
    draws = model.draw(latents, Stream.of(0, (0, 1)))
    seen = []
    model.head.losses = lambda x, z, noise, time: seen.append(z) or {"flow": z.sum()}
    order = draws.order.view(2, model.tokens)
    for places in (order[:, :0], order[:, draws.visible :], order[:, : draws.visible]):
        changed = latents.flatten(3).clone()
        changed[:, 1].scatter_add_(2, places[:, None].expand(-1, 3, -1), torch.ones(2, 3, places.shape[1]))
        model(changed.unflatten(3, LATENT[1:]), draws)
    assert draws.visible > 0
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2])


@MASKED
def test_the_order_of_the_visible_tokens_in_the_sequence_does_not_matter(kind):
    """Their positions travel with them."""
    model, memory = opened(kind), None
    memory = model.remember(clips(1, 2), None)
    x, order = torch.randn(1, 16, 3), torch.randperm(16, generator=torch.Generator().manual_seed(0))[None]
    swapped = torch.cat([order[:, :5].flip(1), order[:, 5:]], dim=1)
    (a,), (b,) = (model.embed(x[:, o[0, :5]], o, (memory,), 4) for o in (order, swapped))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    (c,) = model.embed(x[:, order[0, :5]], swapped, (memory,), 4)
    assert not torch.allclose(a, c)


@EVERY
def test_the_same_draws_give_the_same_losses_and_a_sample_draws_the_same_in_any_batch(kind):
    model, latents = opened(kind), clips(3)
    whole, part = model.draw(latents, Stream.of(5, (7, 8, 9))), model.draw(latents[1:2], Stream.of(5, (8,)))
    assert model(latents, whole).total.item() == model(latents, whole).total.item()
    for field in dataclasses.fields(whole):
        a, b = getattr(whole, field.name), getattr(part, field.name)
        if isinstance(a, int):
            assert a == b
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a[1:2], b), field.name
        else:
            assert torch.equal(a.time[1:2], b.time)
            assert torch.equal(a.noise[1:2], b.noise)


@pytest.mark.parametrize(("kind", "least"), [("videomar", 0.7 / 4), ("magi", 0.7), ("full_frame", 1.25)])
def test_the_tokens_that_are_supervised_are_those_that_the_loss_is_a_mean_of(kind, least):
    """Of 2 clips of 4 predicted frames of 16 tokens, 70 to 100 % are masked; full-frame diffusion learns all five."""
    model, latents = opened(kind), clips()
    count = model.supervised_tokens(model.draw(latents, Stream.of(0, (0, 1))))
    assert least * 2 * 4 * 16 - 8 <= count <= max(1.25, least / 0.7) * 2 * 4 * 16
    assert kind != "full_frame" or count == 2 * 5 * 16


@EVERY
def test_every_parameter_gets_a_gradient(kind):
    model = opened(kind).train()
    latents = clips(8)
    model(latents, model.draw(latents, Stream.of(0, range(8)))).total.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@EVERY
def test_the_first_loss_of_standardised_latents_is_two(kind):
    model, latents = tiny(kind), torch.randn(16, 5, *LATENT)
    terms = model(latents, model.draw(latents, Stream.of(0, range(16)))).terms
    assert terms["flow"].item() == pytest.approx(2.0, abs=0.15)


@EVERY
def test_a_clip_is_the_same_in_any_batch_and_a_longer_rollout_begins_with_the_shorter_one(kind, one_set):
    model = opened(kind)
    whole = video(model, one_set)
    assert whole.shape == (3, 3, *LATENT)
    torch.testing.assert_close(whole[:1], video(model, one_set, batch=1), atol=1e-4, rtol=1e-4)
    assert torch.equal(whole[:, :2], video(model, one_set, frames=2))


@EVERY
def test_the_history_matters(kind, one_set):
    """The newest and the oldest frame of the context change the next one."""
    model, context = opened(kind), clips(2, 3)
    frames = {}
    for index in (None, 0, 2):
        changed = context.clone()
        if index is not None:
            changed[:, index] += 1
        frames[index] = next(rollout(model, changed, 1, Stream.of(0, (0, 1)), one_set)).latent
    assert not torch.allclose(frames[None], frames[0])
    assert not torch.allclose(frames[None], frames[2])


@EVERY
def test_more_frames_than_it_was_trained_on_run_up_to_the_stated_limit(kind, one_set):
    model = opened(kind)
    assert video(model, one_set, batch=1, frames=6).shape[1] == 6
    with pytest.raises(InputError, match="9 latent frames, but the model's positions reach 8"):
        video(model, one_set, batch=1, frames=7)


@EVERY
def test_larger_grids_than_it_was_trained_on_run_up_to_the_stated_limit(kind, one_set):
    model = opened(kind)
    larger = model.on_grid(6, 5)
    context = torch.randn(1, 2, 3, 6, 5)
    frame = next(rollout(larger, context, 1, Stream.of(0, (0,)), one_set))
    assert frame.latent.shape == (1, 3, 6, 5)
    assert larger.decoder.embed.weight.data_ptr() == model.decoder.embed.weight.data_ptr()
    assert torch.equal(video(model.on_grid(*LATENT[1:]), one_set), video(model, one_set))
    with pytest.raises(InputError, match="7 columns, but the model's positions reach 6"):
        model.on_grid(6, 7)


@EVERY
def test_on_a_larger_grid_every_token_keeps_the_position_it_had(kind):
    model = opened(kind)
    small, large = model.decoder.angles(2, 1)[0], model.on_grid(6, 6).decoder.angles(2, 1)[0]
    assert torch.equal(small.unflatten(0, (4, 4)), large.unflatten(0, (6, 6))[:4, :4])


@EVERY
def test_clips_of_one_frame_are_refused(kind):
    with pytest.raises(InputError, match="nothing to predict"):
        tiny(kind).draw(clips(2, 1), Stream.of(0, (0, 1)))


@EVERY
@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        ({"heads": 3}, "not a multiple"),
        ({"heads": 8}, "at least 8"),
        ({"extent": [8, 3, 6]}, "4 rows, but the model's positions reach 3"),
    ],
)
def test_parts_that_do_not_fit_are_told_in_one_sentence(kind, decoder, words):
    with pytest.raises(InputError, match=words):
        tiny(kind, decoder={**KINDS[kind]["decoder"], **decoder})


def recipe(**changes: object) -> RecipeConfig:
    return RecipeConfig(
        **{
            "seed": 0, "steps": 4, "batch": 2, "micro_batch": None,
            "learning_rate": 3e-3, "schedule": "constant", "warmup": 0,
            "weight_decay": 0.02, "clip": 1.0, "ema": 0.5, "precision": "bfloat16", "activation_checkpointing": False,
            "compile": False, "workers": 1, "parallel": "ddp", "log_every": 2,
            "validate_every": 4, "validation_clips": 2, "checkpoint_every": 4, "keep": 2, "new_weights": (),
            "phases": (), **changes,
        }
    )  # fmt: skip


@EVERY
def test_the_loop_trains_it_as_any_other_model(kind):
    model = tiny(kind)
    training = Training(model, lambda module: module, recipe())
    data = Data(lambda start: iter([((0, 1), clips())] * 4), [((0, 1), clips())])
    progress = list(fit(training, data))
    assert progress[-1].step == 4
    assert progress[-1].metrics["validation_flow"] > 0
    if isinstance(model, HasNoWeightDecay):
        assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


@EVERY
def test_a_stored_model_comes_back_as_its_kind_and_predicts_the_same(kind, one_set, tmp_path):
    model = opened(kind)
    checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, model.state_dict())
    description = ModelDescription(
        model=model.config, autoencoder="a", clips="b", encoder=None, actions=None, mean=(0.0,), std=(1.0,)
    )
    checkpoint.describe(tmp_path, description)
    loaded, _ = serialization.load(tmp_path, torch.device("cpu"))
    assert type(loaded) is type(model)
    assert torch.equal(video(loaded, one_set), video(model, one_set))


@EVERY
def test_one_clip_is_overfitted(kind):
    model, latents = tiny(kind), clips(1, 3).expand(8, -1, -1, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(300):
        terms = model(latents, model.draw(latents, Stream.of(0, range(8)).fork(step)))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.total.item())
    assert sum(losses[-50:]) / 50 < 0.65 * sum(losses[:10]) / 10
