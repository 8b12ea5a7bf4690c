"""Decoded pictures of a reader: types, cropping, and time stamps."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from components.datasets import resizing

CHUNK_BYTES: Final = 2 * 2**20  # decoded pictures held at a time; resizing is faster while they fit the CPU cache
CHUNK_FRAMES: Final = 64
LONGEST: Final = 3600.0  # seconds that a picture may be shown; more is a fault in the time stamps
LONGEST_IN_A_STREAM: Final = 10.0  # the same for transport streams, whose clock jumps where streams were joined
STREAMS: Final = frozenset({"mpegts", "mpeg"})  # formats whose clock may jump
STEADY: Final = 0.002  # seconds; containers round time stamps to milliseconds


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive pictures of one size, cropped to the part that is kept, with the time of each."""

    pictures: UInt8[ndarray, "f h w 3"]  # in memory that the next chunk uses again
    times: tuple[float, ...]  # seconds by the container's clock; NaN if unknown
    end: float  # when the last picture ends
    whole: tuple[int, int]  # height and width of the whole pictures


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture, in memory that its decoder may reuse, with its time in seconds."""

    pixels: UInt8[ndarray, "h w 3"]
    begin: float
    end: float  # of the last picture of a video; of others, it may be any
    pixel: float  # width of a pixel relative to its height


def gather(pictures: Iterable[Picture], size: tuple[int, int]) -> Iterator[Chunk]:
    """Crop each picture to the part that frames of `size` need, and yield chunks of crops of equal size."""
    held, end = np.empty((0, 0, 0, 3), np.uint8), 0.0
    times: list[float] = []
    shape, part = (0, 0), (0, 0, 0, 0)
    for picture in pictures:
        found = picture.pixels.shape[:2]
        if times and (len(times) == len(held) or found != shape):
            yield Chunk(held[: len(times)], tuple(times), end, shape)
            times = []
        if found != shape:
            shape, part = found, resizing.window(found, size, picture.pixel)
            most = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * part[2] * part[3])))
            held = np.empty((most, *part[2:], 3), np.uint8)
        held[len(times)] = picture.pixels[part[0] : part[0] + part[2], part[1] : part[1] + part[3]]
        times.append(picture.begin)
        end = picture.end
    if times:
        yield Chunk(held[: len(times)], tuple(times), end, shape)


class Clock:
    """Converts time stamps to seconds since the first picture, and measures the frame rate.

    A time stamp that is missing, decreases or jumps is replaced by the previous one plus the nominal frame duration.
    """

    def __init__(self, nominal: float, form: str) -> None:
        self._nominal, self._longest = nominal, LONGEST_IN_A_STREAM if form in STREAMS else LONGEST
        self._stamp, self._now, self._steps = math.nan, 0.0, 0
        self._shortest, self._widest = math.inf, 0.0

    def __call__(self, stamp: float) -> float:
        """Return the seconds from the first picture to the next one, with this time stamp. Call once per picture."""
        if self._steps:
            step = stamp - self._stamp
            if not 0 < step <= self._longest:  # also if a time stamp is NaN
                step = self._nominal
            self._now += step
            self._shortest, self._widest = min(self._shortest, step), max(self._widest, step)
        self._steps += 1
        self._stamp = stamp
        return self._now

    def after(self, end: float) -> float:
        """Return the seconds from the first picture to the end of the last one so far."""
        shown = end - self._stamp
        return self._now + (shown if 0 < shown <= self._longest else self._nominal)

    @property
    def fps(self) -> float:
        """Mean frame rate so far; 0 before the second picture."""
        return round((self._steps - 1) / self._now, 3) if self._now else 0.0

    @property
    def steady(self) -> bool:
        """Whether all pictures are shown for the same time."""
        return self._widest - min(self._shortest, self._widest) <= STEADY
