"""FVD (Unterthiner et al. 2018) under a named protocol, which fixes the clips and frames that are scored, and how."""

import functools
import operator
from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import field_validator
from torch import Tensor

from components.foundation.config import Config
from components.foundation.settings.ranges import Count, Seed, Several, Whole
from components.metrics.distances import frechet, i3d, intervals, kernel
from components.metrics.distances.frechet import Gaussian
from components.metrics.distances.intervals import FEWEST_BLOCKS, Estimate

MIN_CLIPS_PER_DIMENSION: Final = 4  # with more, adding up Gaussians is faster than using all features
RESIZE: Final = "antialiased bilinear interpolation"  # the method that resizes clips to a protocol's resolution


class ProtocolConfig(Config):
    """Settings that define an FVD: two scores are comparable only if all of them are equal."""

    name: str  # shown in the report
    clips: Several  # test clips that provide context and truth; test videos if starts are random
    samples: Count  # K, predictions per clip
    start: Literal["first", "random"]  # first: the first clip of each video; random: K random clips of each (DFVD)
    context: Count  # pixel frames of the context
    context_scored: bool  # whether the scored clips include the real context, on both sides, or predicted frames only
    frames: Count  # pixel frames predicted
    window: Several | None  # predicted frames are also scored in windows this long, to show drift
    resolution: Count  # pixels, height and width of the scored frames
    resamples: Whole  # blocks of clips for the jackknife interval; 0: no interval
    seed: Seed  # of the predictions

    @field_validator("frames")
    @classmethod
    def _long_enough(cls, frames: int, info: Any) -> int:  # ValidationInfo fails the run-time type check
        context = info.data.get("context", 0) if info.data.get("context_scored") else 0
        if frames + context < i3d.SHORTEST:
            raise ValueError(f"I3D needs at least {i3d.SHORTEST} frames; predict more, or set context_scored to true")
        return frames

    @field_validator("window")
    @classmethod
    def _within(cls, window: int | None, info: Any) -> int | None:
        if window is not None and window > info.data.get("frames", window):
            raise ValueError("a window must be at most as long as the frames predicted; use null for no windows")
        return window

    @field_validator("resamples")
    @classmethod
    def _possible(cls, blocks: int, info: Any) -> int:
        if 0 < blocks < FEWEST_BLOCKS or blocks > info.data.get("clips", blocks):
            raise ValueError(f"it must be 0 (no interval), or from {FEWEST_BLOCKS} to protocol.clips; 16 is enough")
        return blocks

    @property
    def futures(self) -> int:
        """Number of predictions that share a context: `samples`, or 1 if each prediction has its own random start."""
        return self.samples if self.start == "first" else 1

    @property
    def windows(self) -> tuple[slice, ...]:
        """Consecutive windows of the predicted frames, from the first frame on; an incomplete last one is dropped."""
        if self.window is None:
            return ()
        return tuple(
            slice(first, first + self.window) for first in range(0, self.frames - self.window + 1, self.window)
        )

    def describe(self) -> str:
        """Return the protocol as text, for the caption of a table."""
        predictions = "one prediction each" if self.samples == 1 else f"{self.samples} predictions each"
        clips_used = "the first clip of each video before any second one"
        if self.start == "random":
            clips_used = "every prediction from a start drawn anew in its video, and real clips from the same starts"
        context_use, frames = "scored too, as it is", self.context + self.frames
        if not self.context_scored:
            context_use, frames = "left out", self.frames
        return (
            f"{self.name}: {self.clips} test clips, {predictions} (seed {self.seed}), {clips_used}; frames given: "
            f"{self.context}, frames scored: {frames}, context {context_use}, at {self.resolution}x{self.resolution} "
            f"({RESIZE} where clips are larger); {i3d.DESCRIPTION}; FVD: full covariances over N - 1; "
            f"{kernel.DESCRIPTION}; {frechet.FRAME_DISTANCE}"
        )


def scored(
    context: UInt8[Tensor, "b ... c h w"], predicted: UInt8[Tensor, "n f c h w"], config: ProtocolConfig
) -> UInt8[Tensor, "n ... c h w"]:
    """Return the clips that FVD scores: the predicted frames, after the context if `context_scored`.

    `context` is the real context of each test clip, for real and predicted clips alike. The n / b predictions of a
    test clip are consecutive.
    """
    if not config.context_scored:
        return predicted
    return torch.cat([context.repeat_interleave(len(predicted) // len(context), dim=0), predicted], dim=1)


def fvd(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"]) -> float:
    """Return the FVD of two sets of I3D features. Raise InputError for fewer than two clips, NaN or infinity."""
    return frechet.frechet(real, fake)


def score(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Estimate:
    """Return FVD and its 95 % interval, FVD ± 1.96 standard errors, which covers the random choice of clips.

    The longer set has equally many consecutive rows for each row of the shorter one (the predictions of a test clip).

    The interval is for FVD at these numbers of clips. With N clips, every FVD has a bias of about c / N, where c
    depends on the data. The interval does not cover that bias; `corrected` removes its part of order 1 / N. If a set
    has fewer clips than `blocks`, each block is one clip. With fewer than eight blocks there is no interval. Raise
    InputError for fewer than two clips in either set, NaN or infinity.
    """
    fewer = min(len(real), len(fake))
    estimate = intervals.estimate(leaving_out(real, fake, min(blocks, fewer)), min(blocks, fewer))
    low = None if estimate.low is None else max(estimate.low, 0.0)
    return Estimate(estimate.value, low, estimate.high, estimate.corrected)


def difference(
    real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], other: Float[Tensor, "n d"], blocks: int
) -> Estimate:
    """Return the FVD of `fake` minus the FVD of `other`, two sets of predictions of the same clips, with its interval.

    Both FVDs leave out the same blocks of clips, so a clip that is hard for both does not widen the interval. It does
    widen the two intervals of `score`. If row i of both sets was sampled with the same noise, that noise cancels too.
    """
    parts = min(blocks, len(real), len(fake))
    first, second = (leaving_out(real, samples, max(parts, 1)) for samples in (fake, other))
    return intervals.estimate(lambda *left_out: first(*left_out) - second(*left_out), parts)


def leaving_out(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Callable[..., float]:
    """Return a function that computes FVD without given blocks of clips, for the jackknife.

    At least two clips must remain when two blocks are left out.
    """
    fewer = min(len(real), len(fake))
    sides = [(rows, intervals.blocks_of(len(rows), fewer, blocks)) for rows in (real, fake)]
    if fewer > MIN_CLIPS_PER_DIMENSION * real.shape[1]:
        return _leaving_out_parts([[rows[block == part] for part in range(blocks)] for rows, block in sides])

    def without(*left_out: int) -> float:
        return fvd(*(rows[~torch.isin(block, torch.tensor(left_out))] for rows, block in sides))

    return without


def _leaving_out_parts(sides: list[list[Tensor]]) -> Callable[..., float]:
    """Return the function of `leaving_out`, computed from one Gaussian per block, whatever the size of the blocks."""
    fitted = [[Gaussian.fit(part) for part in parts] for parts in sides]

    def without(*left_out: int) -> float:
        remaining = ([part for block, part in enumerate(parts) if block not in left_out] for parts in fitted)
        return frechet.distance(*(functools.reduce(operator.add, parts) for parts in remaining))

    return without
