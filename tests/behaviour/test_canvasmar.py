"""Claims about the whole model: what may depend on what, and what reduces to what."""

import dataclasses

import pytest
import torch

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.canvasmar.canvas_vit import blend
from components.models.canvasmar.spatial_mar import gather
from components.models.canvasmar.temporal_vit import TemporalViT
from components.models.canvasmar.values import Condition
from components.models.layers.embeddings import patchify
from tests.behaviour.conftest import LATENT, tiny_config

ONE_BLOCK = {"layers": 1, "norm_first": False, "block": "plain", "local": False}


def clips(batch: int = 2, frames: int = 5) -> torch.Tensor:
    return torch.randn(batch, frames, *LATENT, generator=torch.Generator().manual_seed(1))


def stream(*samples: int) -> Stream:
    return Stream.of(0, samples or (0, 1))


def test_z_t_does_not_see_its_own_frame_or_later_ones(model):
    latents = clips()
    changed = latents.clone()
    changed[:, 2] += 1
    before, after = model.temporal(latents), model.temporal(changed)
    same = (before == after).flatten(2).all(2).all(0)
    assert same.tolist() == [True, True, True, False, False, False]


def test_memory_gives_what_the_parallel_pass_gives(model):
    latents = clips()
    parallel = model.temporal(latents)
    memory = None
    for index in range(latents.shape[1]):
        memory = model.remember(latents[:, index : index + 1], memory)
        torch.testing.assert_close(memory.z_t, parallel[:, index + 1], atol=1e-5, rtol=1e-5)
    assert memory.frames == latents.shape[1]


def test_remembering_does_not_change_the_memory_it_starts_from(model):
    memory = model.remember(clips()[:, :2], None)
    keys = memory.layers[0].keys.clone()
    model.remember(clips()[:, 2:3], memory)
    assert torch.equal(memory.layers[0].keys, keys)
    assert memory.frames == 2


def test_memory_keeps_a_window_of_blocks_however_long_the_video(model):
    memory = model.remember(clips(frames=12), None)
    assert memory.layers[0].keys.shape[2] == (model.temporal.window - 1) * model.temporal.tokens


@pytest.mark.parametrize("window", [1, 2, 5])
def test_within_a_shorter_window_memory_still_gives_what_the_parallel_pass_gives(config, window):
    """So a model is sampled as it was trained, however its window and the clips compare."""
    torch.manual_seed(0)
    model = TemporalViT(config.temporal.model_copy(update={"window": window}), LATENT)
    parallel, memory = model(clips()), None
    for index, frame in enumerate(clips().split(1, dim=1)):
        memory = model.remember(frame, memory)
        torch.testing.assert_close(memory.z_t, parallel[:, index + 1], atol=1e-5, rtol=1e-5)


def test_the_canvas_of_a_frame_does_not_see_the_frame(model):
    latents = clips()
    changed = latents.clone()
    changed[:, 3:] += 1
    noise = {"frame_noise": 0.3, "canvas_noise": 0.2}
    before, after = (
        model.propose(model.remember(x[:, :3], None), stream(), **noise).canvas for x in (latents, changed)
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
def test_z_of_hidden_tokens_does_not_see_their_values_but_sees_the_visible_ones(make, block, local):
    model = make(block=block, local=local)
    x = patchify(clips(2, 1)[:, 0], 1)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    condition = Condition(torch.randn(2, 4, 16), torch.randn(2, 16, 16), None)

    def z(tokens):
        return model.spatial(gather(tokens, order)[:, :5], order, condition.mask_tokens, condition.z_t)

    hidden, visible = x.clone(), x.clone()
    hidden.scatter_add_(1, order[:, 5:, None].expand(-1, -1, 3), torch.ones(2, 11, 3))
    visible.scatter_add_(1, order[:, :5, None].expand(-1, -1, 3), torch.ones(2, 5, 3))
    assert torch.equal(z(x), z(hidden))
    assert not torch.allclose(z(x), z(visible))


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
def test_the_order_of_the_visible_tokens_in_the_sequence_does_not_matter(make, block):
    model = make(block=block)
    x = torch.randn(1, 16, 3)
    order = torch.arange(16)[None]
    other = torch.cat([order[:, :5].flip(1), order[:, 5:]], dim=1)
    mask_tokens, z_t = torch.randn(1, 16, 16), torch.randn(1, 4, 16)
    a, b = (model.spatial(gather(x, o)[:, :5], o, mask_tokens, z_t) for o in (order, other))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_encoder_depth_zero_is_one_joint_pass(make):
    model = make(block="plain", encoder_depth=0)
    x, order = torch.randn(2, 16, 3), torch.arange(16).expand(2, -1)
    mask_tokens, z_t = torch.randn(2, 16, 16), torch.randn(2, 4, 16)
    spatial = model.spatial
    known = spatial.embed(x[:, :6]) + spatial.position[:6]
    joint = torch.cat([z_t, known, (mask_tokens + spatial.position)[:, 6:]], dim=1)
    for block in spatial.blocks:
        joint = block(joint, (4, 6, 10))
    torch.testing.assert_close(spatial(x[:, :6], order, mask_tokens, z_t), spatial.norm(joint[:, 10:]))


def test_equal_experts_are_a_plain_layer_norm(make):
    from components.models.layers.blocks import ExpertNorm

    norm, x = ExpertNorm(16), torch.randn(2, 9, 16)
    torch.testing.assert_close(norm(x, (2, 3, 4)), torch.nn.functional.layer_norm(x, (16,)))


def test_a_dropped_canvas_has_no_effect_on_the_flow_loss(model):
    """With the canvas dropped the loss does not depend on the canvas's noise; with it, it does."""
    latents = clips()
    draws = model.draw(latents, stream().fork("step", 0))
    everywhere, nowhere = torch.ones_like(draws.no_canvas), torch.zeros_like(draws.no_canvas)
    other = dataclasses.replace(draws, canvas_noise=draws.canvas_noise.flip(2))
    losses = {}
    for name, dropped in (("dropped", everywhere), ("kept", nowhere)):
        losses[name] = [
            model(latents, dataclasses.replace(d, no_canvas=dropped)).terms["flow"].item() for d in (draws, other)
        ]
    assert losses["dropped"][0] == losses["dropped"][1]
    assert losses["kept"][0] != losses["kept"][1]


def test_static_loss_sends_no_gradient_into_its_target(model):
    z_c, x = torch.randn(2, 16, 16), torch.randn(2, 16, 3)
    static = model.canvas.losses(z_c, model.canvas.canvas(z_c, x), x)["static"]
    static.backward()
    assert model.canvas.canvas_head.weight.grad is None
    assert model.canvas.static_head.weight.grad.any()


def test_staticness_of_a_perfect_canvas_is_learned_as_one(model):
    z_c = torch.randn(2, 16, 16)
    canvas = model.canvas.canvas(z_c, z_c[..., :3])
    error, static = model.canvas.losses(z_c, canvas, canvas.detach()).values()
    assert error.item() == 0
    expected = (model.canvas.staticness(z_c) - 1).square().mean()
    torch.testing.assert_close(static, expected)


def test_the_first_flow_loss_of_standardised_latents_is_two():
    torch.manual_seed(0)
    model = tiny_config().build()
    latents = torch.randn(16, 5, *LATENT)
    terms = model(latents, model.draw(latents, Stream.of(0, range(16)))).terms
    assert terms["flow"].item() == pytest.approx(2.0, abs=0.1)


def test_blending_with_nothing_is_the_input_and_with_all_is_the_noise():
    x, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(blend(x, noise, 0.0), x)
    assert torch.equal(blend(x, noise, torch.ones(2)), noise)


def test_the_same_draws_give_the_same_losses(model):
    latents = clips()
    draws = model.draw(latents, stream())
    assert model(latents, draws).total.item() == model(latents, draws).total.item()


def test_a_sample_draws_the_same_in_any_batch(model):
    latents = clips(3)
    whole, part = model.draw(latents, Stream.of(5, (7, 8, 9))), model.draw(latents[1:2], Stream.of(5, (8,)))
    assert whole.visible == part.visible
    for field in dataclasses.fields(whole):
        if field.name not in ("visible", "rows"):
            assert torch.equal(getattr(whole, field.name)[1:2], getattr(part, field.name)), field.name


def test_the_no_canvas_weights_are_the_canvas_weights_minus_the_canvas(make):
    with_canvas, without = make().state_dict(), make(canvas=False).state_dict()
    assert {name for name in with_canvas if not name.startswith("canvas.")} == set(without)


def test_the_no_canvas_model_trains_on_the_flow_loss_alone(make):
    model = make(canvas=False)
    losses = model(clips(), model.draw(clips(), stream()))
    assert set(losses.terms) == {"flow"}
    assert losses.total.item() == pytest.approx(losses.terms["flow"].item())


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
def test_every_trained_parameter_gets_a_gradient(make, block):
    model = make(block=block).train()
    latents = clips(8)
    draws = model.draw(latents, Stream.of(0, range(8)))
    rows = draws.no_history.numel()
    some = (torch.arange(rows) % 2 == 0).view_as(draws.no_history)
    shaped = {
        "time": draws.time[:, :, :1].expand(-1, -1, 10, -1),
        "noise": draws.noise[:, :, :1].expand(-1, -1, 10, -1, -1),
    }
    draws = dataclasses.replace(draws, visible=6, no_history=some, no_canvas=~some, **shaped)
    model(latents, draws).total.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


@pytest.mark.parametrize("canvas", [True, False])
def test_one_clip_is_overfitted(canvas):
    torch.manual_seed(0)
    model = tiny_config(canvas=canvas).build()
    latents = clips(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(600):
        terms = model(latents, model.draw(latents, Stream.of(0, (0,)).fork(step)))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.terms["flow"].item())
    assert sum(losses[-50:]) / 50 < 0.5 * sum(losses[:10]) / 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latent": (3, 5, 4)}, "use even sizes"),
        ({"drop": 0.5}, "drop is 0.5"),
        ({"spatial": {**ONE_BLOCK, "width": 32, "heads": 2, "encoder_depth": 1}}, "make them equal"),
        ({"spatial": {**ONE_BLOCK, "width": 16, "heads": 3, "encoder_depth": 1}}, "heads"),
        ({"spatial": {**ONE_BLOCK, "width": 16, "heads": 2, "encoder_depth": 2}}, "encoder_depth is 2"),
    ],
)
def test_parts_that_do_not_fit_are_told_in_one_sentence(config, change, words):
    from components.foundation.config import parse, plain

    with pytest.raises(InputError, match=words):
        parse(type(config), {**plain(config), **change}, where="here").build()
