"""FVD by a named protocol (Unterthiner et al. 2018): which clips and frames are scored and how, and the score."""

import functools
import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, field_validator
from torch import Tensor

from components.config import Config
from components.metrics import frechet, i3d, intervals, kernel, pictures
from components.metrics.frechet import Gaussian
from components.metrics.intervals import FEWEST_BLOCKS, Estimate

MANY: Final = 4  # clips for each number of a feature, above which added Gaussians beat the features themselves
RESIZE: Final = "antialiased bilinear interpolation"  # what brings clips to the resolution of a protocol


class ProtocolConfig(Config):
    """What must be named for an FVD to mean something: two scores compare only if all of this is equal."""

    name: str
    clips: Annotated[int, Field(ge=2)]  # test clips that give context and truth; where starts are random, videos
    samples: Annotated[int, Field(ge=1)]  # predictions for each of them, K
    start: Literal[
        "first", "random"
    ]  # the first clip of each video; or K of its clips drawn anew, real ones too (DFVD)
    context: Annotated[int, Field(ge=1)]  # pixel frames given
    context_scored: (
        bool  # whether FVD sees the frames that were given, on both sides as they are, or only those predicted
    )
    frames: Annotated[int, Field(ge=1)]  # pixel frames predicted
    window: Annotated[int, Field(ge=2)] | None  # frames predicted are also scored in windows of so many, to see drift
    resolution: Annotated[int, Field(ge=1)]  # pixels, height and width of the frames that are scored
    resamples: Annotated[int, Field(ge=0)]  # blocks of clips left out in turn for the interval; 0 is none
    seed: int  # of the predictions

    @field_validator("frames")
    @classmethod
    def _long_enough(cls, frames: int, info: Any) -> int:  # a ValidationInfo, which no run-time check can look into
        given = info.data.get("context", 0) if info.data.get("context_scored") else 0
        if frames + given < i3d.SHORTEST:
            raise ValueError(f"I3D needs at least {i3d.SHORTEST} frames; predict more, or score the context with them")
        return frames

    @field_validator("window")
    @classmethod
    def _within(cls, window: int | None, info: Any) -> int | None:
        if window is not None and window > info.data.get("frames", window):
            raise ValueError("a window is at most as long as the frames that are predicted; null is none")
        return window

    @field_validator("resamples")
    @classmethod
    def _possible(cls, blocks: int, info: Any) -> int:
        if 0 < blocks < FEWEST_BLOCKS or blocks > info.data.get("clips", blocks):
            raise ValueError(f"use 0 for no interval, or {FEWEST_BLOCKS} blocks up to as many as clips; 16 are plenty")
        return blocks

    @property
    def futures(self) -> int:
        """Predictions of one and the same context: none but one where each prediction has a start of its own."""
        return self.samples if self.start == "first" else 1

    @property
    def windows(self) -> tuple[slice, ...]:
        """The windows that the predicted frames are cut into, from the first on, whole ones only."""
        if self.window is None:
            return ()
        return tuple(
            slice(first, first + self.window) for first in range(0, self.frames - self.window + 1, self.window)
        )

    def describe(self) -> str:
        """The protocol in words, for the line under a table."""
        predictions = "one prediction each" if self.samples == 1 else f"{self.samples} predictions each"
        chosen = "the first clip of each video before any second one"
        if self.start == "random":
            chosen = "every prediction from a start drawn anew in its video, and real clips from the same starts"
        given, frames = "scored too, as it is", self.context + self.frames
        if not self.context_scored:
            given, frames = "left out", self.frames
        return (
            f"{self.name}: {self.clips} test clips, {predictions} (seed {self.seed}), {chosen}; frames given: "
            f"{self.context}, frames scored: {frames}, context {given}, at {self.resolution}x{self.resolution} "
            f"({RESIZE} where clips are larger); {i3d.DESCRIPTION}; FVD: full covariances over N - 1; "
            f"{kernel.DESCRIPTION}; {pictures.DESCRIPTION}"
        )


def scored(
    context: UInt8[Tensor, "b ... c h w"], predicted: UInt8[Tensor, "n f c h w"], config: ProtocolConfig
) -> UInt8[Tensor, "n ... c h w"]:
    """What FVD is to see of clips: the predicted frames, after the given ones if these are scored too.

    `context` is that of each test clip; its predictions are neighbours. It is the genuine one for both sides.
    """
    if not config.context_scored:
        return predicted
    return torch.cat([context.repeat_interleave(len(predicted) // len(context), dim=0), predicted], dim=1)


def fvd(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"]) -> float:
    """FVD of two sets of I3D features. Raises InputError for fewer than two clips, NaN or infinity."""
    return frechet.frechet(real, fake)


def score(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Estimate:
    """FVD with the interval value -+ 1.96 standard errors, which says how far chance in the choice of clips moves it.

    Row i of the shorter set and its share of the longer one belong together (a test clip and its predictions). The
    interval is about FVD at these numbers of clips: the bias that few clips bring, some c / N, is in the value and in
    every other FVD of the same N, and no interval takes it away; `corrected` takes away its part of order 1 / N. A side
    with fewer clips than blocks is cut into single clips, and one of fewer than eight clips gets no interval. Raises
    InputError for fewer than two clips on a side, NaN or infinity.
    """
    fewer = min(len(real), len(fake))
    found = intervals.estimate(leaving_out(real, fake, min(blocks, fewer)), min(blocks, fewer))
    low = None if found.low is None else max(found.low, 0.0)
    return Estimate(found.value, low, found.high, found.corrected)


def difference(
    real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], other: Float[Tensor, "n d"], blocks: int
) -> Estimate:
    """FVD of one set of predictions less that of another of the same clips, with its interval.

    Both leave out the same clips together, so what makes a clip hard for both does not widen the interval, as it does
    those of `score`. Where row i of both was drawn by the same chance, that goes too.
    """
    parts = min(blocks, len(real), len(fake))
    first, second = (leaving_out(real, of, max(parts, 1)) for of in (fake, other))
    return intervals.estimate(lambda *gone: first(*gone) - second(*gone), parts)


def leaving_out(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Callable[..., float]:
    """FVD without the blocks that are named; two clips must be left when two of the blocks are gone."""
    fewer = min(len(real), len(fake))
    sides = [(rows, intervals.blocks_of(len(rows), fewer, blocks)) for rows in (real, fake)]
    if fewer > MANY * real.shape[1]:
        return _leaving_out_parts([[rows[block == part] for part in range(blocks)] for rows, block in sides])

    def without(*gone: int) -> float:
        return fvd(*(rows[~torch.isin(block, torch.tensor(gone))] for rows, block in sides))

    return without


def _leaving_out_parts(sides: list[list[Tensor]]) -> Callable[..., float]:
    """The same from the blocks' Gaussians, which are fitted once and added up: no time that grows with the clips."""
    fitted = [[Gaussian.fit(part) for part in parts] for parts in sides]

    def without(*gone: int) -> float:
        kept = ([part for place, part in enumerate(parts) if place not in gone] for parts in fitted)
        return frechet.distance(*(functools.reduce(operator.add, parts) for parts in kept))

    return without
