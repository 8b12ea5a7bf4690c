"""Guidance along a chain of ever richer conditions (section 4.4), and which conditions to drop in training."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Schedule = Literal["constant", "linear"]


def coefficients(scales: Sequence[float]) -> tuple[float, ...]:
    """Eq. 9, s_0 + sum_i w_i (s_i - s_{i-1}), gathered by score: how much of each; they add up to one.

    A coefficient of zero says that the condition need not be computed: scales of one need the richest condition alone,
    equal scales skip the conditions between.
    """
    weights = (1.0, *scales, 0.0)
    return tuple(weights[i] - weights[i + 1] for i in range(len(scales) + 1))


def scheduled(scales: Sequence[float], schedule: Schedule, done: float) -> tuple[float, ...]:
    """The scales of one autoregressive step; `done` is the share of the frame's tokens that stand after it.

    `constant` is NOVA's; `linear` grows from one to the full scale with what is known of the frame, as MAR's does.
    """
    return tuple(scales) if schedule == "constant" else tuple(1 + (scale - 1) * done for scale in scales)


def combine(scores: Sequence[Float[Tensor, "*s"]], weights: Sequence[float]) -> Float[Tensor, "*s"]:
    """The weighted sum of the scores of the conditions that are needed."""
    total = scores[0] * weights[0] if weights[0] != 1.0 else scores[0]
    for score, weight in zip(scores[1:], weights[1:], strict=True):
        total = total + weight * score
    return total


def drops(uniform: Float[Tensor, "*s"], chance: float) -> tuple[Bool[Tensor, "*s"], Bool[Tensor, "*s"]]:
    """Which rows lose the history and which the canvas: `chance` each for history, canvas, and both (section 4.4)."""
    canvas_only, history_only, both = ((uniform >= chance * i) & (uniform < chance * (i + 1)) for i in range(3))
    return history_only | both, canvas_only | both
