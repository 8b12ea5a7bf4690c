"""Confidence intervals and bias of a statistic of clips, by the jackknife over blocks of clips."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

FEWEST_BLOCKS: Final = 8  # with fewer blocks the standard error is itself too uncertain


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its 95 % interval: about 95 % of other sets of equally many clips give a value in it.

    All fields but `value` are None if there are too few blocks for an interval.

    `corrected` is the value minus the jackknife estimate of its bias. It removes the bias of order 1 / N, as a linear
    extrapolation to 1 / N = 0 would, and leaves any bias that falls more slowly with N.
    """

    value: float
    low: float | None
    high: float | None
    corrected: float | None


@dataclass(frozen=True, slots=True)
class Jackknife:
    """Jackknife estimates for a statistic: its standard error and its bias of order 1 / N."""

    error: float
    bias: float


def estimate(without: Callable[..., float], blocks: int) -> Estimate:
    """Return the statistic with the interval value ± 1.96 standard errors; no interval for fewer than eight blocks.

    `without(*blocks)` computes the statistic without these blocks of clips.
    """
    value = without()
    if blocks < FEWEST_BLOCKS:
        return Estimate(value, None, None, None)
    estimates = jackknife(without, blocks)
    margin = 1.96 * estimates.error
    return Estimate(value, value - margin, value + margin, value - estimates.bias)


def jackknife(without: Callable[..., float], blocks: int) -> Jackknife:
    """Return a statistic's standard error over sets of clips like these, and its bias of order 1 / N.

    The bias is estimated as in Quenouille 1956. A bootstrap draws clips twice, which makes covariances narrower and
    raises FVD by more than the width of the interval. A jackknife keeps clips distinct. The plain jackknife counts the
    variance of the quadratic part of FVD twice, and this part is nearly all of FVD if both sets are alike. Leaving out
    pairs of blocks measures that part (Efron and Stein 1981). The correction removes at most half: the variance of a
    quadratic statistic lies between half the plain estimate and the plain estimate.
    """
    whole = without()
    single = [without(i) for i in range(blocks)]
    plain = (blocks - 1) / blocks * _squared_deviations(single)
    pairs = [
        blocks * whole - (blocks - 1) * (single[i] + single[j]) + (blocks - 2) * without(i, j)
        for i, j in combinations(range(blocks), 2)
    ]
    error = math.sqrt(max(plain - _squared_deviations(pairs) / (blocks * (blocks - 1)), plain / 2))
    return Jackknife(error, (blocks - 1) * (math.fsum(single) / blocks - whole))


def blocks_of(rows: int, fewer: int, blocks: int) -> Int[Tensor, "b"]:
    """Return the block of each row. Blocks are consecutive rows, so a test clip and its predictions share a block.

    `fewer` is the number of rows of the shorter of two sets: its row i and its share of the longer set belong together.
    """
    return torch.arange(rows) * fewer // rows * blocks // fewer


def _squared_deviations(values: list[float]) -> float:
    """Return the sum of squared deviations from the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
