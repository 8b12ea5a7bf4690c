"""Rectified flow: the straight path from data to noise, its velocity, and the way back.

time 0 is data, time 1 is noise: x_time = (1 - time) x + time noise, so dx/dtime = noise - x (spec of the head: MAR's
and NOVA's flow matching; Liu et al., arXiv 2209.03003).
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Solver = Literal["euler", "heun", "adams_bashforth"]
Field = Callable[[Float[Tensor, "*s p"], float], Float[Tensor, "*s p"]]


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
    field: Field, noise: Float[Tensor, "*s p"], steps: int, solver: Solver = "euler"
) -> Float[Tensor, "*s p"]:
    """From noise at time 1 to data at time 0 by steps of equal length; exact where the field is constant."""
    return _SOLVERS[solver](field, noise, steps)


def evaluations(steps: int, solver: Solver) -> int:
    """How often `integrate` asks the field for a velocity: this is what an integration costs."""
    return 2 * steps if solver == "heun" else steps


def _euler(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """First order: the error falls with the length of a step."""
    x = noise
    for step in range(steps):
        time = 1 - step / steps
        x = x - field(x, time) / steps
    return x


def _heun(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """Second order: the mean of the velocities at both ends of an Euler step."""
    x = noise
    for step in range(steps):
        slope = field(x, 1 - step / steps)
        x = x - (slope + field(x - slope / steps, 1 - (step + 1) / steps)) / (2 * steps)
    return x


def _adams_bashforth(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """Second order without a second evaluation: the velocity of the step before shows how it changes."""
    x, before = noise, None
    for step in range(steps):
        slope = field(x, 1 - step / steps)
        x = x - (slope if before is None else 1.5 * slope - 0.5 * before) / steps
        before = slope
    return x


_SOLVERS: dict[Solver, Callable[[Field, Tensor, int], Tensor]] = {
    "euler": _euler,
    "heun": _heun,
    "adams_bashforth": _adams_bashforth,
}
