import math

import pytest
import torch

from components.config import parse, plain
from components.models.canvas_vit import CanvasConfig, CanvasViT, blend

CONFIG = CanvasConfig(
    width=16,
    heads=2,
    layers=2,
    frame_noise=(0.2, 0.6),
    canvas_noise=(0.0, 0.3),
    canvas_weight=0.1,
    static_weight=0.1,
    static_scale=1.0,
)


def canvas(static_scale: float = 1.0) -> CanvasViT:
    torch.manual_seed(0)
    return CanvasViT(
        parse(CanvasConfig, plain(CONFIG) | {"static_scale": static_scale}, where="here"), (3, 4, 4), group=1
    )


def test_blending_is_equation_eleven_with_a_strength_for_each_row() -> None:
    x, noise, strength = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.0, 0.25, 1.0])
    for row in range(3):
        r = strength[row].item()
        torch.testing.assert_close(blend(x, noise, strength)[row], x[row] * (1 - r) + noise[row] * r)
    torch.testing.assert_close(blend(x, noise, 0.25)[1], blend(x, noise, strength)[1])


def test_z_c_has_a_token_for_every_place_and_unit_variance_in_each() -> None:
    z_c = canvas()(torch.randn(2, 4, 16), torch.randn(2, 3, 4, 4))
    assert z_c.shape == (2, 16, 16)
    torch.testing.assert_close(z_c.var(-1, unbiased=False), torch.ones(2, 16), atol=1e-3, rtol=0)


def test_the_canvas_depends_on_the_past_and_on_the_last_frame() -> None:
    model, z_t, last = canvas(), torch.randn(1, 4, 16), torch.randn(1, 3, 4, 4)
    z_c = model(z_t, last)
    other = model(torch.randn(1, 4, 16), last), model(z_t, torch.randn(1, 3, 4, 4))
    assert not any(torch.allclose(z_c, changed) for changed in other)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_losses_are_equations_five_to_seven(scale: float) -> None:
    model, z_c, x = canvas(scale), torch.randn(2, 16, 16), torch.randn(2, 16, 3)
    error = (model.canvas_head(z_c) - x) ** 2
    target = torch.exp(-scale * error.sum(-1))
    canvas_loss, static_loss = model.losses(z_c, x)
    torch.testing.assert_close(canvas_loss, error.mean())
    torch.testing.assert_close(static_loss, ((model.staticness(z_c) - target) ** 2).mean())


def test_staticness_lies_between_zero_and_one() -> None:
    staticness = canvas().staticness(100 * torch.randn(2, 16, 16))
    assert ((staticness >= 0) & (staticness <= 1)).all()


def test_the_static_loss_reaches_z_c_through_the_prediction() -> None:
    z_c = torch.randn(2, 16, 16, requires_grad=True)
    _, static = canvas().losses(z_c, torch.randn(2, 16, 3))
    static.backward()
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
        losses = zip(model.losses(z_c, x), (model.canvas_head.bias, model.static_head.bias), strict=True)
        pulls[shift] = [torch.autograd.grad(loss, bias, retain_graph=True)[0] for loss, bias in losses]
    assert all(pull.abs().max() < 1e-6 for pull in pulls[0.0])
    assert (pulls[-0.1][0] < 0).all()
    assert (pulls[0.1][0] > 0).all()
