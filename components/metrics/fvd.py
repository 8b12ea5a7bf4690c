"""FVD by a named protocol (Unterthiner et al. 2018): the score, its interval, and whether the clips move at all."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Final

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, field_validator
from torch import Tensor

from components.config import Config
from components.errors import InputError
from components.metrics import frechet, i3d

FEWEST_BLOCKS: Final = 8  # with fewer the standard error is itself too much of a guess


class ProtocolConfig(Config):
    """What must be named for an FVD to mean something: two scores compare only if all of this is equal."""

    name: str
    clips: Annotated[int, Field(ge=2)]  # test clips that give context and truth
    samples: Annotated[int, Field(ge=1)]  # predictions for each of them
    context: Annotated[int, Field(ge=1)]  # pixel frames given
    frames: Annotated[int, Field(ge=i3d.SHORTEST)]  # pixel frames predicted and scored, the context left out
    resolution: Annotated[int, Field(ge=1)]  # pixels, height and width of the frames that are scored
    resamples: Annotated[int, Field(ge=0)]  # blocks of clips left out in turn for the interval; 0 is none
    seed: int  # of the predictions

    @field_validator("resamples")
    @classmethod
    def _possible(cls, blocks: int, info: Any) -> int:  # a ValidationInfo, which no run-time check can look into
        if 0 < blocks < FEWEST_BLOCKS or blocks > info.data.get("clips", blocks):
            raise ValueError(f"use 0 for no interval, or {FEWEST_BLOCKS} blocks up to as many as clips; 16 are plenty")
        return blocks

    def describe(self) -> str:
        """The protocol in words, for the line under a table."""
        predictions = "one prediction each" if self.samples == 1 else f"{self.samples} predictions each"
        return (
            f"{self.name}: {self.clips} test clips, {predictions} (seed {self.seed}); frames given: {self.context}, "
            f"frames scored: {self.frames}, context left out, at {self.resolution}x{self.resolution}; "
            f"{i3d.DESCRIPTION}; full covariances over N - 1"
        )


@dataclass(frozen=True, slots=True)
class Score:
    """An FVD, and where about 95 % of what as many other clips give would lie; None where there is no interval."""

    value: float
    low: float | None
    high: float | None
    clips_real: int
    clips_fake: int


def fvd(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"]) -> float:
    """FVD of two sets of I3D features. Raises InputError for fewer than two clips, NaN or infinity."""
    return frechet.frechet(real, fake)


def score(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], config: ProtocolConfig) -> Score:
    """FVD with the interval value -+ 1.96 standard errors, which says how far chance in the choice of clips moves it.

    Row i of the shorter set and its share of the longer one belong together (a test clip and its predictions). The
    interval is about FVD at these numbers of clips: the bias that few clips bring, some c / N, is in the value and in
    every other FVD of the same N, and no interval takes it away. A side with fewer clips than blocks is cut into single
    clips, and one of fewer than eight clips gets no interval. Raises InputError as `fvd` does.
    """
    value = fvd(real, fake)
    blocks = min(config.resamples, len(real), len(fake))
    if blocks < FEWEST_BLOCKS:
        return Score(value, None, None, len(real), len(fake))
    margin = 1.96 * standard_error(real, fake, blocks)
    return Score(value, max(value - margin, 0.0), value + margin, len(real), len(fake))


def standard_error(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> float:
    """Standard deviation of FVD over sets of clips like these: a jackknife by blocks with Efron and Stein's correction.

    A bootstrap draws clips twice, which makes covariances narrower and FVD larger by more than the interval is wide.
    Leaving out keeps clips distinct, but the plain jackknife counts twice what in FVD is quadratic in the clips, and
    near equality there is little else; leaving out pairs of blocks measures that part (Efron and Stein 1981). The
    correction takes half at most: the variance of a quadratic statistic lies between that and the plain jackknife.
    `blocks` are at most the clips of the shorter set, and leave two clips when two of them are gone.
    """
    fewer = min(len(real), len(fake))

    def without(*gone: int) -> float:
        return fvd(*(rows[~torch.isin(_blocks(len(rows), fewer, blocks), torch.tensor(gone))] for rows in (real, fake)))

    whole = fvd(real, fake)
    single = [without(i) for i in range(blocks)]
    plain = (blocks - 1) / blocks * _spread(single)
    pairs = [
        blocks * whole - (blocks - 1) * (single[i] + single[j]) + (blocks - 2) * without(i, j)
        for i, j in combinations(range(blocks), 2)
    ]
    return math.sqrt(max(plain - _spread(pairs) / (blocks * (blocks - 1)), plain / 2))


def _blocks(rows: int, fewer: int, blocks: int) -> Int[Tensor, "b"]:
    """The block of each row: neighbours together, and so a test clip with its predictions."""
    return torch.arange(rows) * fewer // rows * blocks // fewer


def _spread(values: list[float]) -> float:
    """Sum of squares about the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def motion(clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Mean absolute difference of neighbouring frames of each clip, in grey levels of 0..255; 0 for a frozen clip.

    Raises InputError for clips of a single frame.
    """
    if clips.shape[1] < 2:
        raise InputError("the motion of a single frame is not defined; give clips of at least two frames")
    return torch.stack([clip.float().diff(dim=0).abs().mean() for clip in clips])
