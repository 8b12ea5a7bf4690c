import typing

import pytest
import torch

from components.models import flow

SOLVERS = typing.get_args(flow.Solver)


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 3, generator=generator)


def test_the_path_begins_at_the_data_and_ends_at_the_noise() -> None:
    x, noise = tensors()
    assert torch.equal(flow.interpolate(x, noise, torch.zeros(2, 5)), x)
    assert torch.equal(flow.interpolate(x, noise, torch.ones(2, 5)), noise)


def test_every_token_has_a_time_of_its_own() -> None:
    x, noise = tensors()
    time = torch.rand(2, 5, generator=torch.Generator().manual_seed(1))
    point = flow.interpolate(x, noise, time)
    torch.testing.assert_close(point[1, 3], (1 - time[1, 3]) * x[1, 3] + time[1, 3] * noise[1, 3])


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    x, noise = tensors()

    def path(time: torch.Tensor) -> torch.Tensor:
        return flow.interpolate(x, noise, time.expand(2, 5))

    _, derivative = torch.autograd.functional.jvp(path, torch.tensor(0.3), torch.tensor(1.0))
    torch.testing.assert_close(derivative, flow.velocity(x, noise))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_a_solver_is_exact_on_a_constant_velocity(steps: int, solver: flow.Solver) -> None:
    x, noise = (tensor.double() for tensor in tensors())
    found = flow.integrate(lambda point, time: flow.velocity(x, noise), noise, steps, solver)
    torch.testing.assert_close(found, x, atol=1e-12, rtol=0)


def test_euler_asks_at_equal_distances_from_one_and_never_at_zero() -> None:
    asked = []

    def field(point: torch.Tensor, time: float) -> torch.Tensor:
        asked.append(time)
        return torch.zeros_like(point)

    flow.integrate(field, torch.zeros(1, 1), 4)
    assert asked == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_euler_on_a_linear_field_gives_the_power_it_must(steps: int) -> None:
    found = flow.integrate(lambda point, time: point, torch.ones(1, 1, dtype=torch.float64), steps)
    assert found.item() == pytest.approx((1 - 1 / steps) ** steps, abs=1e-12)


def to_a_gaussian(steps: int, solver: flow.Solver) -> torch.Tensor:
    """Error after the flow to a normal distribution of mean 2 and deviation 0.3, whose velocity is known.

    x_time has mean 2 (1 - time) and variance 0.09 (1 - time)^2 + time^2; the flow keeps its place in deviations.
    """
    mean, deviation = 2.0, 0.3
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def field(point: torch.Tensor, time: float) -> torch.Tensor:
        variance = deviation**2 * (1 - time) ** 2 + time**2
        growth = (time - deviation**2 * (1 - time)) / variance  # of the deviation's logarithm
        return growth * (point - mean * (1 - time)) - mean

    return (flow.integrate(field, noise, steps, solver) - (mean + deviation * noise)).abs().max()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("adams_bashforth", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver: flow.Solver, order: int) -> None:
    assert to_a_gaussian(400, solver) / to_a_gaussian(800, solver) == pytest.approx(2**order, rel=0.05)


def test_twelve_evaluations_of_second_order_beat_thirty_of_euler() -> None:
    assert to_a_gaussian(12, "adams_bashforth") < to_a_gaussian(30, "euler") / 2


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 6])
def test_a_solver_asks_for_as_many_velocities_as_it_says(steps: int, solver: flow.Solver) -> None:
    asked = []

    def field(point: torch.Tensor, time: float) -> torch.Tensor:
        asked.append(time)
        return point

    flow.integrate(field, torch.ones(1, 1), steps, solver)
    assert len(asked) == flow.evaluations(steps, solver)
    assert asked[0] == 1.0


def test_heun_asks_at_both_ends_of_a_step() -> None:
    asked = []

    def field(point: torch.Tensor, time: float) -> torch.Tensor:
        asked.append(time)
        return torch.zeros_like(point)

    flow.integrate(field, torch.zeros(1, 1), 2, "heun")
    assert asked == [1.0, 0.5, 0.5, 0.0]


def test_training_times_are_the_logistic_function_of_normal_numbers() -> None:
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    time = flow.logit_normal(normal)
    assert time.dtype == torch.float32
    assert ((time > 0) & (time < 1)).all()
    torch.testing.assert_close(torch.logit(time.double()), normal.double(), atol=1e-5, rtol=1e-5)
    assert ((time > 0.25) & (time < 0.75)).float().mean().item() == pytest.approx(0.728, abs=0.01)


def test_a_training_time_does_not_depend_on_its_place_in_the_batch() -> None:
    normal = torch.randn(37, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.cat([flow.logit_normal(number[None]) for number in normal])
    assert torch.equal(flow.logit_normal(normal), one_by_one)
