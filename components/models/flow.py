"""Rectified flow: the straight path from data to noise, its velocity, and the ODE solvers that follow it back to data.

Time 0 is data and time 1 is noise: x_time = (1 - time) x + time noise, so dx/dtime = noise - x (Liu et al.,
arXiv 2209.03003; MAR and NOVA use the same flow matching in their heads).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Solver = Literal["euler", "heun", "adams_bashforth"]
Field = Callable[[Float[Tensor, "*s p"], float], Float[Tensor, "*s p"]]
ConditionedField = Callable[[Float[Tensor, "*s p"], float], tuple[Float[Tensor, "*s p"], ...]]  # one for each condition


def logit_normal(normal: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Map standard normal samples to training times in (0, 1), most of them near the middle of the path."""
    # computed in float64: the last bit of a float32 sigmoid depends on the position in the batch
    return normal.double().sigmoid().to(normal.dtype)


def interpolate(
    x: Float[Tensor, "*s p"], noise: Float[Tensor, "*s p"], time: Float[Tensor, "*s"]
) -> Float[Tensor, "*s p"]:
    """Return (1 - time) x + time noise, each token at its own time."""
    return torch.lerp(x, noise, time[..., None])


def velocity(x: Float[Tensor, "*s p"], noise: Float[Tensor, "*s p"]) -> Float[Tensor, "*s p"]:
    """Return dx/dtime = noise - x, which is constant along the path."""
    return noise - x


def integrate(
    field: Field, noise: Float[Tensor, "*s p"], steps: int, solver: Solver = "euler"
) -> Float[Tensor, "*s p"]:
    """Integrate from noise at time 1 to data at time 0 in `steps` equal steps; exact if the field is constant."""
    return _SOLVERS[solver](field, noise, steps)


def times(steps: int, solver: Solver) -> list[float]:
    """Return the flow times at which `integrate` evaluates the velocity field: equally spaced, and falling from 1."""
    return [1 - step / steps for step in range(steps + (solver == "heun"))]


def evaluations(steps: int, solver: Solver) -> int:
    """Return how often `integrate` evaluates the velocity field, which determines the cost of an integration."""
    return 2 * steps if solver == "heun" else steps


def _euler(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """First-order solver: the error is proportional to the step size."""
    x = noise
    for time in times(steps, "euler"):
        x = torch.sub(x, field(x, time), alpha=1 / steps)
    return x


def _heun(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """Second-order solver: step along the mean of the velocities at both ends of an Euler step."""
    x = noise
    for time, following in pairwise(times(steps, "heun")):
        slope = field(x, time)
        end = field(torch.sub(x, slope, alpha=1 / steps), following)
        x = torch.sub(x, slope + end, alpha=0.5 / steps)
    return x


def _adams_bashforth(field: Field, noise: Float[Tensor, "*s p"], steps: int) -> Float[Tensor, "*s p"]:
    """Second-order solver with one evaluation per step: extrapolate from the previous step's velocity."""
    x, previous = noise, None
    for time in times(steps, "adams_bashforth"):
        slope = field(x, time)
        x = torch.sub(x, slope if previous is None else torch.lerp(previous, slope, 1.5), alpha=1 / steps)
        previous = slope
    return x


_SOLVERS: dict[Solver, Callable[[Field, Tensor, int], Tensor]] = {
    "euler": _euler,
    "heun": _heun,
    "adams_bashforth": _adams_bashforth,
}
