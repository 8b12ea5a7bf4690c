"""The exact velocity of Gaussian tokens, against linear regression on samples, which is exact for Gaussians."""

import math

import pytest
import torch

from components.models import gaussian
from components.models.gaussian import Gaussian


@pytest.mark.parametrize(
    ("mean", "std", "time"), [(0.0, 1.0, 0.5), (1.5, 0.3, 0.2), (-2.0, 2.0, 0.7), (0.5, 0.05, 0.9)]
)
def test_the_velocity_is_the_expected_one_and_the_spread_is_what_it_leaves(mean, std, time) -> None:
    generator = torch.Generator().manual_seed(0)
    data = mean + std * torch.randn(200_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(200_000, generator=generator, dtype=torch.float64)
    x, velocity = (1 - time) * data + time * noise, noise - data
    u, expected, spread = Gaussian(torch.tensor(mean), torch.tensor(std).log()).at(x, time)
    slope = ((x - x.mean()) * velocity).mean() / x.var()
    regressed = velocity.mean() + slope * (x - x.mean())
    torch.testing.assert_close(expected, regressed, atol=0.04 * float(spread), rtol=0.02)
    assert float((velocity - expected).std()) == pytest.approx(float(spread), rel=0.01)
    assert (float(u.mean()), float(u.std())) == pytest.approx((0, 1), abs=0.01)


def test_a_standard_deviation_keeps_to_its_bounds_and_returns_from_them() -> None:
    low, high = gaussian.LOG_STD
    found = gaussian.log_std(torch.tensor([-40.0, 40.0, gaussian.unbounded(0.3)]))
    torch.testing.assert_close(found, torch.tensor([low, high, math.log(0.3)]))


def test_the_likelihood_is_torchs_and_is_least_at_the_size_of_the_errors() -> None:
    error, log_std = torch.randn(1000), torch.full((1000,), -0.7)
    reference = torch.distributions.Normal(0.0, log_std.exp()).log_prob(error).mean() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian.negative_log_likelihood(error, log_std), -reference)
    best = error.square().mean().sqrt().log()
    losses = [float(gaussian.negative_log_likelihood(error, (best + shift).expand(1000))) for shift in (-0.1, 0.0, 0.1)]
    assert min(losses) == losses[1]
