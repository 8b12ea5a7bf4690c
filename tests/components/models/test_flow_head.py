from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from components.models import flow, flow_head, gaussian
from components.models.flow_head import FlowHead, FlowHeadConfig

PAPER = FlowHeadConfig(width=1280, layers=3, repeats=4, preconditioned=False)


def head(*, opened: bool, preconditioned: bool = False) -> FlowHead:
    torch.manual_seed(0)
    module = FlowHead(FlowHeadConfig(width=24, layers=2, repeats=3, preconditioned=preconditioned), 3, 16)
    if opened:
        for parameter in module.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize(
    ("embedding", "numbers", "parameters"), [(768, 8, 32_496_648), (1024, 8, 32_824_328), (1024, 16, 32_844_816)]
)
def test_the_paper_sized_head_has_as_many_parameters_as_novas(embedding: int, numbers: int, parameters: int) -> None:
    with torch.device("meta"):
        module = FlowHead(PAPER, numbers, embedding)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_the_first_velocity_is_zero() -> None:
    module = head(opened=False)
    assert not module.velocity(torch.randn(2, 5, 3), torch.rand(2, 5), torch.randn(2, 5, 24)).any()


def test_the_first_loss_is_the_mean_square_of_the_velocity_it_should_find() -> None:
    x, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 3, 3)
    found = head(opened=False).losses(x, torch.randn(2, 5, 16), noise, torch.rand(2, 5, 3))["flow"]
    torch.testing.assert_close(found, (noise - x[:, :, None]).square().mean())


def test_the_loss_is_the_mean_over_tokens_and_repeats_each_at_its_own_time() -> None:
    module = head(opened=True)
    x, z, noise, time = torch.randn(2, 5, 3), torch.randn(2, 5, 16), torch.randn(2, 5, 3, 3), torch.rand(2, 5, 3)
    errors = []
    for b, k, a in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(3)).tolist():
        point = flow.interpolate(x[b, k], noise[b, k, a], time[b, k, a])
        velocity = module.velocity(point, time[b, k, a], module.condition(z[b, k]))
        errors.append((velocity - flow.velocity(x[b, k], noise[b, k, a])).square())
    torch.testing.assert_close(module.losses(x, z, noise, time)["flow"], torch.stack(errors).mean())


def test_the_velocity_of_a_token_depends_on_that_token_alone() -> None:
    module, x, z = head(opened=True), torch.randn(2, 5, 3), torch.randn(2, 5, 24)
    changed = x.clone()
    changed[1, 3] += 1
    before, after = (module.velocity(point, torch.full((1, 1), 0.4), z) for point in (x, changed))
    differs = (before != after).any(-1)
    assert differs[1, 3]
    assert differs.sum() == 1


def test_one_time_for_all_is_the_same_as_that_time_for_each() -> None:
    module, x, z = head(opened=True), torch.randn(2, 5, 3), torch.randn(2, 5, 24)
    for_all, for_each = (module.velocity(x, time, z) for time in (torch.full((1, 1), 0.4), torch.full((2, 5), 0.4)))
    torch.testing.assert_close(for_all, for_each)


def test_the_velocity_depends_on_time_and_on_the_condition() -> None:
    module, x, z = head(opened=True), torch.randn(2, 5, 3), torch.randn(2, 5, 24)
    velocity = module.velocity(x, torch.full((2, 5), 0.4), z)
    assert not torch.allclose(velocity, module.velocity(x, torch.full((2, 5), 0.401), z))
    assert not torch.allclose(velocity, module.velocity(x, torch.full((2, 5), 0.4), z + 0.1))


def test_the_loss_with_a_scale_is_the_squared_error_times_the_squared_scale() -> None:
    module = head(opened=True)
    x, z, noise, time = torch.randn(2, 5, 3), torch.randn(2, 5, 16), torch.randn(2, 5, 3, 3), torch.rand(2, 5, 3)
    scale, errors = torch.rand(2, 5, 3) + 0.1, []
    for b, k, a in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(3)).tolist():
        point = flow.interpolate(x[b, k], noise[b, k, a], time[b, k, a])
        velocity = module.velocity(point, time[b, k, a], module.condition(z[b, k]))
        errors.append(scale[b, k].square() * (velocity - flow.velocity(x[b, k], noise[b, k, a])).square())
    torch.testing.assert_close(module.losses(x, z, noise, time, scale)["flow"], torch.stack(errors).mean())
    torch.testing.assert_close(module.losses(x, z, noise, time, torch.ones(2, 5, 3)), module.losses(x, z, noise, time))


@pytest.mark.parametrize("solver", ["euler", "heun", "adams_bashforth"])
@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("rows", [1, 70, 4096])  # times in one product: one, several with a rest, all
def test_the_velocity_field_is_the_velocity_under_each_condition(solver, preconditioned, rows, monkeypatch) -> None:
    monkeypatch.setattr(flow_head, "MAX_ROWS", rows)
    module, x = head(opened=True, preconditioned=preconditioned), torch.randn(2, 5, 3)
    conditions = tuple(module.condition(torch.randn(2, 5, 16)) for _ in range(3))
    field = module.velocity_field(conditions, flow.times(8, solver))
    for time in flow.times(8, solver):
        expected = tuple(module.velocity(x, torch.full((1, 1), time), condition) for condition in conditions)
        torch.testing.assert_close(field(x, time), expected)


def test_the_velocity_field_computes_its_modulations_in_one_product_for_all_times() -> None:
    """Operations of an integration that a GPU launches as kernels, against one call of `velocity` in each step."""

    def kernels(field: Callable[[torch.Tensor, float], torch.Tensor]) -> int:
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as recorded:
            flow.integrate(field, torch.randn(2, 5, 3), 30)
        views = ("view", "reshape", "slice", "select", "chunk", "split", "unsqueeze", "expand", "unbind", "narrow", "t")
        top = [event for event in recorded.events() if event.cpu_parent is None]
        return sum(event.name.removeprefix("aten::") not in views for event in top)

    module = head(opened=True, preconditioned=True)
    condition = module.condition(torch.randn(2, 5, 16))
    field = module.velocity_field((condition,), flow.times(30, "euler"))
    found = kernels(lambda x, time: field(x, time)[0])
    alone = kernels(lambda x, time: module.velocity(x, torch.full((1, 1), time), condition))
    assert found < 0.6 * alone, (found, alone)


def test_a_preconditioned_head_transports_unit_noise_to_its_gaussian_before_training() -> None:
    """With mean m and standard deviation s, the flow from noise e at time 1 ends at m + s e."""
    module, noise = head(opened=False, preconditioned=True), torch.randn(1, 4000, 3)
    mean, std = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 0.2, 0.5])
    with torch.no_grad():
        module.fit.bias.copy_(torch.cat([mean, torch.tensor([gaussian.unbounded(value) for value in std.tolist()])]))
    condition = module.condition(torch.randn(1, 4000, 16))
    found = flow.integrate(lambda x, time: module.velocity(x, torch.full((1, 1), time), condition), noise, 400)
    torch.testing.assert_close(found, mean + std * noise, rtol=0.03, atol=0.02)
    torch.testing.assert_close(found.std(dim=(0, 1)), std, rtol=0.03, atol=0)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.8])
def test_the_first_loss_of_a_preconditioned_head_is_the_variance_that_x_leaves(time: float) -> None:
    """Var(noise - data | x) is 1 / (t^2 + (1 - t)^2), for tokens of a unit Gaussian."""
    x, noise = torch.randn(4, 2000, 3), torch.randn(4, 2000, 2, 3)
    module = head(opened=False, preconditioned=True)
    found = module.losses(x, torch.randn(4, 2000, 16), noise, torch.full((4, 2000, 2), time))["flow"]
    assert found.item() == pytest.approx(1 / (time**2 + (1 - time) ** 2), rel=0.03)


def test_the_correction_of_a_preconditioned_head_is_scaled_by_the_spread_that_x_leaves() -> None:
    """Before training the Gaussian has mean 0 and standard deviation 1."""
    plain, preconditioned = head(opened=True), head(opened=False, preconditioned=True)
    preconditioned.load_state_dict(plain.state_dict(), strict=False)
    x, z = torch.randn(2, 5, 3), torch.randn(2, 5, 16)
    for time in (0.0, 0.3, 1.0):
        at, power = torch.full((1, 1), time), time**2 + (1 - time) ** 2
        corrected = plain.velocity(x / power**0.5, at, plain.condition(z)) / power**0.5
        expected = x * (2 * time - 1) / power + corrected
        torch.testing.assert_close(preconditioned.velocity(x, at, preconditioned.condition(z)), expected)


def test_a_preconditioned_head_soon_finds_the_mean_and_the_spread_that_z_tells() -> None:
    torch.manual_seed(0)
    module = head(opened=False, preconditioned=True)
    assert module.weights == {"flow": 1.0, "mean": 1.0, "spread": flow_head.SPREAD_WEIGHT}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(300):
        z = torch.randn(8, 16, 16)
        x = z[..., :3] + 0.1 * torch.randn(8, 16, 3)
        noise, time = torch.randn(8, 16, 3, 3), torch.rand(8, 16, 3)
        optimizer.zero_grad()
        terms = module.losses(x, z, noise, time)
        sum(weight * terms[name] for name, weight in module.weights.items()).backward()
        optimizer.step()
    z = torch.randn(1, 50, 16)
    _, found = module.split(module.condition(z))
    torch.testing.assert_close(found.mean, z[..., :3], atol=0.1, rtol=0)
    torch.testing.assert_close(found.log_std.exp(), torch.full((1, 50, 3), 0.1), rtol=0.3, atol=0)


def test_the_spread_does_not_train_z_and_the_flow_does_not_train_the_gaussian() -> None:
    module, z = head(opened=True, preconditioned=True), torch.randn(2, 5, 16, requires_grad=True)
    rows = (torch.randn(2, 5, 3), z, torch.randn(2, 5, 3, 3), torch.rand(2, 5, 3))
    assert torch.autograd.grad(module.losses(*rows)["spread"], z, allow_unused=True) == (None,)
    assert not torch.autograd.grad(module.losses(*rows)["flow"], module.fit.weight)[0].any()
    assert torch.autograd.grad(module.losses(*rows)["mean"], z)[0].any()
