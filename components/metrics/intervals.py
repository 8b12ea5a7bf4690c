"""How far chance in the choice of clips moves a statistic, and how much of it is owed to clips being few."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

FEWEST_BLOCKS: Final = 8  # with fewer the standard error is itself too much of a guess


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic, and where about 95 % of what as many other clips give would lie; None where there is no interval.

    `corrected` is the value less what leaving out blocks shows of its bias. It takes away what goes as 1 / N, so it is
    the value that N -> infinity extrapolates to along that line, and leaves what falls more slowly.
    """

    value: float
    low: float | None
    high: float | None
    corrected: float | None


@dataclass(frozen=True, slots=True)
class Jackknife:
    """What leaving out blocks tells of a statistic: its standard error and its bias of order 1 / N."""

    error: float
    bias: float


def estimate(without: Callable[..., float], blocks: int) -> Estimate:
    """The statistic with the interval value -+ 1.96 standard errors; `without` gives it without these blocks.

    Without an interval where the blocks are fewer than eight.
    """
    value = without()
    if blocks < FEWEST_BLOCKS:
        return Estimate(value, None, None, None)
    shown = jackknife(without, blocks)
    margin = 1.96 * shown.error
    return Estimate(value, value - margin, value + margin, value - shown.bias)


def jackknife(without: Callable[..., float], blocks: int) -> Jackknife:
    """Standard deviation of a statistic over sets of clips like these, and its bias of order 1 / N (Quenouille 1956).

    A bootstrap draws clips twice, which makes covariances narrower and FVD larger by more than the interval is wide.
    Leaving out keeps clips distinct, but the plain jackknife counts twice what in FVD is quadratic in the clips, and
    near equality there is little else; leaving out pairs of blocks measures that part (Efron and Stein 1981). The
    correction takes half at most: the variance of a quadratic statistic lies between that and the plain jackknife.
    """
    whole = without()
    single = [without(i) for i in range(blocks)]
    plain = (blocks - 1) / blocks * _spread(single)
    pairs = [
        blocks * whole - (blocks - 1) * (single[i] + single[j]) + (blocks - 2) * without(i, j)
        for i, j in combinations(range(blocks), 2)
    ]
    error = math.sqrt(max(plain - _spread(pairs) / (blocks * (blocks - 1)), plain / 2))
    return Jackknife(error, (blocks - 1) * (math.fsum(single) / blocks - whole))


def blocks_of(rows: int, fewer: int, blocks: int) -> Int[Tensor, "b"]:
    """The block of each row: neighbours together, and so a test clip with its predictions.

    `fewer` are the rows of the shorter of two sets: row i of it and its share of the longer one belong together.
    """
    return torch.arange(rows) * fewer // rows * blocks // fewer


def _spread(values: list[float]) -> float:
    """Sum of squares about the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
