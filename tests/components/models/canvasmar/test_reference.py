"""Relative tokens: their scale, what is learned of it, and tokens that are copied."""

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

from components.foundation.config import parse, plain
from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMARConfig
from components.models.canvasmar.reference import CopyConfig, Reference, Relative, RelativeConfig
from components.models.gaussian import LOG_STD
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from tests.behaviour.conftest import LATENT, tiny_config

CHANNELS, WIDTH = 3, 16
COPYING = RelativeConfig(weight=0.1, copy_still=CopyConfig(change=0.5, chance=0.4, weight=0.2))


def relative(config: RelativeConfig = COPYING, width: int | None = WIDTH) -> Relative:
    """Return the module with weights that are not zero, so that z_c has an effect."""
    torch.manual_seed(0)
    module = Relative(config, CHANNELS, width)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return module


def tokens(seed: int, channels: int = CHANNELS) -> torch.Tensor:
    return torch.randn(2, 16, channels, generator=torch.Generator().manual_seed(seed))


def minimised(parameters: Iterable[nn.Parameter], loss: Callable[[], torch.Tensor], steps: int = 400) -> None:
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_absolute_and_relative_tokens_are_inverses() -> None:
    reference = Reference(tokens(0), tokens(1).exp(), torch.zeros(2, 16, dtype=torch.bool))
    torch.testing.assert_close(reference.absolute(reference.relative(tokens(2))), tokens(2))
    torch.testing.assert_close(reference.relative(reference.absolute(tokens(2))), tokens(2))


def test_a_fresh_scale_is_three_tenths_for_every_token_with_and_without_a_canvas() -> None:
    for width, z_c in ((WIDTH, tokens(0, WIDTH)), (None, None)):
        scale = Relative(COPYING, CHANNELS, width).log_scale(z_c, tokens(1)).exp()
        torch.testing.assert_close(scale, torch.full_like(scale, 0.3))


def test_no_gradient_of_the_scales_loss_reaches_z_c_origin_or_tokens_but_the_scale_head() -> None:
    module = relative()
    inputs = [tokens(0, WIDTH), *(tokens(seed) for seed in (1, 2, 3))]
    for part in inputs:
        part.requires_grad_()
    module.losses(*inputs)["scale"].backward()
    assert [part.grad for part in inputs] == [None] * 4
    assert module.scale_head is not None
    assert module.scale_head.weight.grad is not None
    assert module.scale_head.weight.grad.any()


def test_a_reference_is_without_gradients() -> None:
    reference = relative().reference(
        tokens(0, WIDTH).requires_grad_(), tokens(1).requires_grad_(), tokens(2), copying=False
    )
    assert not reference.origin.requires_grad
    assert not reference.scale.requires_grad


def test_only_the_canvas_loss_moves_the_canvas_that_tokens_are_relative_to() -> None:
    config = plain(tiny_config(relative=COPYING, change=True))
    config["canvas"] |= {"canvas_weight": 0.0, "static_weight": 0.0}
    model = parse(CanvasMARConfig, config, where="here").build()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    latents = torch.randn(2, 4, *LATENT, generator=torch.Generator().manual_seed(1))
    model(latents, model.draw(latents, Stream.of(0, (0, 1)), visible=4)).total.backward()
    assert model.canvas is not None
    head, embed = model.canvas.canvas_head.weight.grad, model.canvas.embed.weight.grad
    assert head is not None
    assert not head.any()
    assert embed is not None
    assert embed.any()  # z_c is shaped by the flow loss, as before


@pytest.mark.parametrize("extreme", [-14.0, -3.0, 0.0, 3.0, 14.0])
def test_the_scale_stays_within_its_bounds_and_keeps_a_gradient(extreme: float) -> None:
    module = Relative(COPYING, CHANNELS, None)
    assert module.scale is not None
    nn.init.constant_(module.scale, extreme)
    scale = module.log_scale(None, tokens(0)).exp()
    assert (scale >= math.exp(LOG_STD[0])).all()
    assert (scale <= math.exp(LOG_STD[1])).all()
    module.losses(None, tokens(0), tokens(1), tokens(2))["scale"].backward()
    assert module.scale.grad is not None
    assert module.scale.grad.all()


def test_without_a_canvas_the_best_scale_of_a_channel_is_the_deviation_of_its_tokens_from_the_origin() -> None:
    """The likelihood log s + e^2 / 2 s^2 is best at s^2 = mean of e^2."""
    module, origin = Relative(COPYING, CHANNELS, None), tokens(0)
    x = origin + tokens(1) * torch.tensor([0.05, 0.3, 1.5])
    minimised(module.parameters(), lambda: module.losses(None, x, origin, origin)["scale"], 1500)
    expected = (x - origin).square().mean((0, 1)).sqrt().expand_as(x)
    torch.testing.assert_close(module.log_scale(None, origin).exp(), expected, rtol=0.01, atol=0)


def test_with_a_canvas_the_scale_tells_tokens_apart_by_z_c() -> None:
    module, origin = Relative(RelativeConfig(weight=1.0, copy_still=None), CHANNELS, WIDTH), tokens(0)
    z_c = torch.zeros(2, 16, WIDTH)
    z_c[:, :8, 0], z_c[:, 8:, 1] = 1.0, 1.0
    x = origin + tokens(1) * torch.cat([torch.full((8, 1), 0.1), torch.full((8, 1), 1.2)])
    minimised(module.parameters(), lambda: module.losses(z_c, x, origin, origin)["scale"])
    for half in (slice(8), slice(8, 16)):
        expected = (x - origin)[:, half].square().mean((0, 1)).sqrt().expand(2, 8, CHANNELS)
        torch.testing.assert_close(module.log_scale(z_c, origin).exp()[:, half], expected, rtol=0.01, atol=0)


def test_without_a_canvas_every_channel_learns_one_scale_and_nothing_is_copied() -> None:
    model = tiny_config(canvas=False, relative=RelativeConfig(weight=1.0, copy_still=None)).build()
    assert model.relative is not None
    assert {name: tuple(part.shape) for name, part in model.relative.named_parameters()} == {"scale": (CHANNELS,)}
    latents = torch.randn(2, 4, *LATENT)
    losses = model(latents, model.draw(latents, Stream.of(0, (0, 1))))
    assert set(losses.terms) == {"flow", "scale"}
    losses.total.backward()
    assert model.relative.scale is not None
    assert model.relative.scale.grad is not None
    assert model.relative.scale.grad.all()
    proposal = model.propose(model.remember(latents, None), Stream.of(0, (0, 1)), frame_noise=0.0, canvas_noise=0.0)
    assert proposal.reference is not None
    assert not proposal.reference.still.any()
    torch.testing.assert_close(model.frame(proposal.reference.origin), latents[:, -1])


def test_the_loss_of_moving_is_the_cross_entropy_of_a_change_above_the_threshold() -> None:
    module, z_c, x, last = relative(), tokens(0, WIDTH), tokens(1), tokens(2)
    assert module.move_head is not None
    chance = module.move_head(z_c).squeeze(-1).sigmoid()
    moved = (x - last).square().mean(-1) > 0.5
    assert moved.any()
    assert not moved.all()
    expected = -torch.where(moved, chance, 1 - chance).log().mean()
    torch.testing.assert_close(module.losses(z_c, x, tokens(3), last)["moves"], expected)
    assert module.weights == {"scale": 0.1, "moves": 0.2}


def test_tokens_below_the_chance_get_the_last_frames_token_exactly_and_others_the_canvas() -> None:
    module, z_c, canvas, last = relative(), tokens(0, WIDTH), tokens(1), tokens(2)
    assert module.move_head is not None
    still = module.move_head(z_c).squeeze(-1).sigmoid() < 0.4
    assert still.any()
    assert not still.all()
    reference = module.reference(z_c, canvas, last, copying=True)
    assert torch.equal(reference.still, still)
    assert torch.equal(reference.absolute(torch.zeros_like(last))[still], last[still])
    assert torch.equal(reference.origin[~still], canvas[~still])
    training = module.reference(z_c, canvas, last, copying=False)
    assert torch.equal(training.origin, canvas)
    assert not training.still.any()


def test_a_rollout_of_a_model_that_expects_no_motion_repeats_the_last_frame_bit_for_bit(sampler: SamplerConfig) -> None:
    torch.manual_seed(0)
    model = tiny_config(relative=COPYING).build().eval()
    assert model.relative is not None
    assert model.relative.move_head is not None
    nn.init.constant_(model.relative.move_head.bias, -20.0)
    context = torch.randn(3, 2, *LATENT)
    frames = list(rollout(model, context, 3, Stream.of(0, range(3)), sampler))
    assert all(torch.equal(frame.latent, context[:, -1]) for frame in frames)
