"""Classifier-free guidance along a chain of increasingly rich conditions (section 4.4), and condition dropout."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Schedule = Literal["constant", "linear"]


def coefficients(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the coefficient of each score s_i in Eq. 9, s_0 + sum_i w_i (s_i - s_{i-1}); they sum to one.

    A score whose coefficient is zero need not be computed. If all scales are one, only the richest condition is
    needed; if two neighbouring scales are equal, the condition between them is not.
    """
    weights = (1.0, *scales, 0.0)
    return tuple(weights[i] - weights[i + 1] for i in range(len(scales) + 1))


def scheduled(scales: Sequence[float], schedule: Schedule, done: float) -> tuple[float, ...]:
    """Return the guidance scales of one autoregressive step.

    `done` is the fraction of the frame's tokens that are known after this step. `constant` keeps the scales (NOVA);
    `linear` increases them from one to their full values in proportion to `done` (MAR).
    """
    return tuple(scales) if schedule == "constant" else tuple(1 + (scale - 1) * done for scale in scales)


def combine(scores: Sequence[Float[Tensor, "*s"]], weights: Sequence[float]) -> Float[Tensor, "*s"]:
    """Return sum_i weights[i] scores[i]."""
    total = scores[0] * weights[0] if weights[0] != 1.0 else scores[0]
    for score, weight in zip(scores[1:], weights[1:], strict=True):
        total = torch.add(total, score, alpha=weight)
    return total


def drops(uniform: Float[Tensor, "*s"], chance: float) -> tuple[Bool[Tensor, "*s"], Bool[Tensor, "*s"]]:
    """Return two masks: the rows without history, and the rows without canvas (section 4.4).

    Dropping only the canvas, only the history, or both has probability `chance` each; `uniform` is in [0, 1).
    """
    canvas_only, history_only, both = ((uniform >= chance * i) & (uniform < chance * (i + 1)) for i in range(3))
    return history_only | both, canvas_only | both
