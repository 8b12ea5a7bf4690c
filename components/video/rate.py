"""Convert pictures with any time stamps to frames at a fixed rate."""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from jaxtyping import UInt8
from torch import Tensor

EARLY: Final = 0.001  # seconds that a picture may come late, because containers round time stamps to milliseconds
MOST: Final = 64  # frames at a time


class FixedRate:
    """Repeats and skips pictures so that frame n is the latest picture at n / fps seconds."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._next = 0  # number of the next frame
        self._newest: UInt8[Tensor, "1 c h w"] | None = None
        self._begin = 0.0  # seconds at which the newest picture begins

    def take(self, pictures: UInt8[Tensor, "f c h w"], times: Sequence[float]) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Take the next pictures with their increasing start times in seconds; yield the frames that are complete."""
        begins = list(times) if self._newest is None else [self._begin, *times]
        held = pictures if self._newest is None else torch.cat([self._newest, pictures])
        self._newest, self._begin = held[-1:], begins[-1]
        yield from self._frames(held, begins[1:])

    def finish(self, end: float) -> Iterator[UInt8[Tensor, "_ c h w"]]:
        """Yield the remaining frames, which repeat the last picture up to `end` seconds."""
        if self._newest is not None:
            yield from self._frames(self._newest, [end])

    def _frames(self, pictures: UInt8[Tensor, "f c h w"], ends: Sequence[float]) -> Iterator[Tensor]:
        """Yield the frames that show the pictures, picture i up to ends[i] seconds."""
        chosen: list[int] = []
        for index, end in enumerate(ends):
            while self._next / self._fps + EARLY < end:
                chosen.append(index)
                self._next += 1
                if len(chosen) == MOST:
                    yield pictures[chosen]
                    chosen = []
        if chosen:
            yield pictures[chosen]
