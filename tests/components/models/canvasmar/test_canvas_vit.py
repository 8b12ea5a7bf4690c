import math

import pytest
import torch

from components.foundation.config import parse, plain
from components.models.canvasmar.canvas_vit import CanvasConfig, CanvasViT, blend

CONFIG = CanvasConfig(
    width=16,
    heads=2,
    layers=2,
    norm_first=False,
    frame_noise=(0.2, 0.6),
    canvas_noise=(0.0, 0.3),
    canvas_weight=0.1,
    static_weight=0.1,
    static_scale=1.0,
    change=False,
    history=1,
    own=0.0,
    local=False,
)


def canvas(**choices: object) -> CanvasViT:
    torch.manual_seed(0)
    return CanvasViT(parse(CanvasConfig, plain(CONFIG) | choices, where="here"), (3, 4, 4), group=1)


def test_blending_is_equation_eleven_with_a_strength_for_each_row() -> None:
    x, noise, strength = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.0, 0.25, 1.0])
    for row in range(3):
        r = strength[row].item()
        torch.testing.assert_close(blend(x, noise, strength)[row], x[row] * (1 - r) + noise[row] * r)
    torch.testing.assert_close(blend(x, noise, 0.25)[1], blend(x, noise, strength)[1])


def test_z_c_has_a_token_for_every_place_and_unit_variance_in_each() -> None:
    z_c = canvas()(torch.randn(2, 4, 16), torch.randn(2, 1, 3, 4, 4))
    assert z_c.shape == (2, 16, 16)
    torch.testing.assert_close(z_c.var(-1, unbiased=False), torch.ones(2, 16), atol=1e-3, rtol=0)


def test_the_canvas_depends_on_the_past_and_on_the_last_frame() -> None:
    model, z_t, last = canvas(), torch.randn(1, 4, 16), torch.randn(1, 1, 3, 4, 4)
    z_c = model(z_t, last)
    other = model(torch.randn(1, 4, 16), last), model(z_t, torch.randn(1, 1, 3, 4, 4))
    assert not any(torch.allclose(z_c, changed) for changed in other)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_losses_are_equations_five_to_seven(scale: float) -> None:
    model, z_c, x = canvas(static_scale=scale), torch.randn(2, 16, 16), torch.randn(2, 16, 3)
    error = (model.canvas_head(z_c) - x) ** 2
    target = torch.exp(-scale * error.sum(-1))
    found = model.losses(z_c, model.canvas(z_c, torch.randn(2, 16, 3)), x)
    canvas_loss, static_loss = found["canvas"], found["static"]
    torch.testing.assert_close(canvas_loss, error.mean())
    torch.testing.assert_close(static_loss, ((model.staticness(z_c) - target) ** 2).mean())


def test_staticness_lies_between_zero_and_one() -> None:
    staticness = canvas().staticness(100 * torch.randn(2, 16, 16))
    assert ((staticness >= 0) & (staticness <= 1)).all()


def test_the_static_loss_reaches_z_c_through_the_prediction() -> None:
    z_c = torch.randn(2, 16, 16, requires_grad=True)
    model = canvas()
    x = torch.randn(2, 16, 3)
    model.losses(z_c, model.canvas(z_c, x), x)["static"].backward()
    assert z_c.grad is not None
    assert z_c.grad.any()


def test_the_best_canvas_of_two_futures_is_their_mean_and_staticness_the_mean_of_its_target() -> None:
    """Three of four rows become zeros, one becomes ones, from the same past: both heads rest at these means."""
    model, z_c = canvas(), torch.zeros(4, 16, 16)
    x = torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None, None].expand(4, 16, 3)
    target = 0.75 * math.exp(-3 * 0.25**2) + 0.25 * math.exp(-3 * 0.75**2)
    pulls = {}
    for shift in (-0.1, 0.0, 0.1):
        torch.nn.init.constant_(model.canvas_head.bias, 0.25 + shift)
        torch.nn.init.constant_(model.static_head.bias, math.log(target / (1 - target)))
        losses = model.losses(z_c, model.canvas(z_c, x), x).values()
        biases = (model.canvas_head.bias, model.static_head.bias)
        pairs = zip(losses, biases, strict=True)
        pulls[shift] = [torch.autograd.grad(loss, bias, retain_graph=True)[0] for loss, bias in pairs]
    assert all(pull.abs().max() < 1e-6 for pull in pulls[0.0])
    assert (pulls[-0.1][0] < 0).all()
    assert (pulls[0.1][0] > 0).all()


def test_a_canvas_of_changes_begins_as_the_last_frame_exactly_and_another_does_not() -> None:
    z_c, last = torch.randn(2, 16, 16), torch.randn(2, 16, 3)
    assert torch.equal(canvas(change=True).canvas(z_c, last), last)
    assert not torch.allclose(canvas().canvas(z_c, last), last, atol=0.1)


def test_a_history_of_two_is_seen_as_the_newest_frame_and_how_it_changed() -> None:
    model, z_t, frames = canvas(history=2), torch.randn(1, 4, 16), torch.randn(1, 2, 3, 4, 4)
    older = frames.clone()
    older[:, 0] += 1
    assert not torch.allclose(model(z_t, frames), model(z_t, older))
    with torch.no_grad():
        model.embed.weight[:, 3:] = 0  # those of the change
    torch.testing.assert_close(model(z_t, frames), model(z_t, older))


def test_a_local_convolution_shows_the_neighbours_without_attention() -> None:
    """Blocks that add nothing leave a token what it is without the convolutions; each of two shows one place more."""
    for local, reach in ((False, 0), (True, 2)):
        model = canvas(local=local)
        for block in model.blocks:
            for norm in (block.get_submodule("norm1"), block.get_submodule("norm2")):
                torch.nn.init.zeros_(norm.get_parameter("weight"))
        frames, z_t = torch.randn(1, 1, 3, 4, 4), torch.randn(1, 4, 16)
        changed = frames.clone()
        changed[..., 0, 0] += 1
        seen = (model(z_t, frames) != model(z_t, changed)).any(-1)[0].view(4, 4)
        assert seen.nonzero().amax(0).tolist() == [reach, reach]


def test_a_command_is_added_to_every_token_of_the_frame() -> None:
    model, z_t, frames, command = canvas(), torch.randn(2, 4, 16), torch.randn(2, 1, 3, 4, 4), torch.randn(2, 16)
    found = model(z_t, frames, command)
    assert not torch.allclose(found, model(z_t, frames))
    torch.testing.assert_close(model(z_t, frames, torch.zeros(2, 16)), model(z_t, frames))
