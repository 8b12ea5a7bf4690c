"""Guidance along a chain of ever richer conditions (section 4.4), and which conditions to drop in training."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor


def coefficients(scales: Sequence[float]) -> tuple[float, ...]:
    """Eq. 9, s_0 + sum_i w_i (s_i - s_{i-1}), gathered by score: how much of each; they add up to one.

    A coefficient of zero says that the condition need not be computed: scales of one need the richest condition alone,
    equal scales skip the conditions between.
    """
    weights = (1.0, *scales, 0.0)
    return tuple(weights[i] - weights[i + 1] for i in range(len(scales) + 1))


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
