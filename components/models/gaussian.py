"""Gaussian tokens: a predicted mean and standard deviation, their losses, and the exact velocity of their flow."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

LOG_STD: Final = (-4.0, 1.0)  # bounds, enforced by a sigmoid, because a clamp has zero gradient beyond its bounds


def log_std(unbounded: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Map a network's output to a logarithm of a standard deviation within LOG_STD."""
    low, high = LOG_STD
    return low + (high - low) * unbounded.float().sigmoid()


def unbounded(std: float) -> float:
    """Return the value that `log_std` maps to log(std)."""
    low, high = LOG_STD
    share = (math.log(std) - low) / (high - low)
    return math.log(share / (1 - share))


def negative_log_likelihood(error: Float[Tensor, "*s"], log_std: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of Gaussian errors, up to a constant; it has no gradient in the error."""
    return (log_std + 0.5 * (error.detach() * torch.exp(-log_std)).square()).mean()


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Distribution N(mean, std^2) of each number of a token."""

    mean: Float[Tensor, "*s"]
    log_std: Float[Tensor, "*s"]

    def detach(self) -> "Gaussian":
        """Return the same distribution without gradients."""
        return Gaussian(self.mean.detach(), self.log_std.detach())

    def at(self, x: Float[Tensor, "*s"], time: Float[Tensor, "..."] | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return (u, velocity, spread) at points x = (1 - time) data + time noise, for data of this Gaussian.

        The noise is independent and N(0, 1). u is the standardised x, `velocity` is E[noise - data | x], and `spread`
        is the standard deviation of noise - data given x.
        """
        std, signal = self.log_std.exp(), 1 - time
        power = torch.rsqrt((signal * std).square() + time**2)
        centred = x - signal * self.mean
        velocity = centred * (time - signal * std.square()) * power.square() - self.mean
        return centred * power, velocity, std * power
