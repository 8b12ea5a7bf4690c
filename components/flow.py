"""Rectified flow: the straight path from data to noise, its velocity, and the way back.

time 0 is data, time 1 is noise: x_time = (1 - time) x + time noise, so dx/dtime = noise - x (spec of the head: MAR's
and NOVA's flow matching; Liu et al., arXiv 2209.03003).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def logit_normal(normal: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Training times in (0, 1) out of unit normal numbers: most of them in the middle of the path."""
    return normal.double().sigmoid().to(normal.dtype)  # in float32 the last bit depends on the place in the batch


def interpolate(
    x: Float[Tensor, "*s p"], noise: Float[Tensor, "*s p"], time: Float[Tensor, "*s"]
) -> Float[Tensor, "*s p"]:
    """The point of the path at each token's own time."""
    return torch.lerp(x, noise, time[..., None])


def velocity(x: Float[Tensor, "*s p"], noise: Float[Tensor, "*s p"]) -> Float[Tensor, "*s p"]:
    """The direction of the path from data to noise, the same at every time."""
    return noise - x


def integrate(
    field: Callable[[Float[Tensor, "*s p"], float], Float[Tensor, "*s p"]], noise: Float[Tensor, "*s p"], steps: int
) -> Float[Tensor, "*s p"]:
    """From noise at time 1 to data at time 0 by Euler steps of equal length; exact where the field is constant."""
    x = noise
    for step in range(steps):
        time = 1 - step / steps
        x = x - field(x, time) / steps
    return x
