"""The Frechet distance between two sets of features, each seen as one Gaussian (Dowson and Landau 1982)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from components.errors import InputError


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Count, mean and scatter of features, in float64; parts of a data set add up to the whole."""

    count: int
    mean: Float64[Tensor, "d"]
    scatter: Float64[Tensor, "d d"]  # sum of the outer products of what is left after the mean

    @classmethod
    def fit(cls, features: Float[Tensor, "b d"]) -> "Gaussian":
        """The Gaussian of one or more rows of features. Raises InputError for none, and for NaN or infinity."""
        _check(features, fewest=1)
        x = features.double()
        mean = x.mean(dim=0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: "Gaussian") -> "Gaussian":
        count = self.count + other.count
        step = other.mean - self.mean
        between = torch.outer(step, step) * (self.count * other.count / count)
        return Gaussian(count, self.mean + step * (other.count / count), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Scatter / (count - 1). Raises InputError for fewer than two clips."""
        if self.count < 2:
            raise InputError(f"a covariance needs at least two clips, not {self.count}; score more clips")
        return self.scatter / (self.count - 1)


def distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^1/2), from statistics that were added up.

    Raises InputError for fewer than two clips on a side.
    """
    overlap = torch.linalg.svdvals(_root(a).T @ _root(b)).sum()
    apart = (a.mean - b.mean).square().sum()
    return max(float(apart + a.covariance.trace() + b.covariance.trace() - 2 * overlap), 0.0)


def _root(gaussian: Gaussian) -> Float64[Tensor, "d i"]:
    """R with R R^T the covariance, and as many columns as the clips allow: the others would be rounding errors only."""
    values, vectors = torch.linalg.eigh(gaussian.covariance)
    rank = min(gaussian.count - 1, len(values))
    return vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()


def frechet(x: Float[Tensor, "b d"], y: Float[Tensor, "n d"]) -> float:
    """The same distance straight from two sets of features, the fastest and most exact form where clips are few.

    Tr (S_x S_y)^1/2 is the nuclear norm of A B^T, with A and B the centred features over the root of (count - 1).
    Raises InputError for fewer than two clips on a side, NaN, or infinity.
    """
    a, b = _factor(x), _factor(y)
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    apart = (x.double().mean(dim=0) - y.double().mean(dim=0)).square().sum()
    return max(float(apart + a.square().sum() + b.square().sum() - 2 * overlap), 0.0)


def _factor(features: Float[Tensor, "b d"]) -> Float64[Tensor, "i d"]:
    """A with A^T A the covariance, and no more rows than columns."""
    _check(features, fewest=2)
    x = features.double()
    a = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(a, mode="r").R if len(a) > a.shape[1] else a


def _check(features: Tensor, fewest: int) -> None:
    if len(features) < fewest:
        raise InputError(
            f"the Frechet distance needs at least {fewest} clips a side, not {len(features)}; score more clips"
        )
    if not torch.isfinite(features).all():
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise InputError(f"the features of clip {row} are not finite; look for NaN in what that clip was decoded from")
