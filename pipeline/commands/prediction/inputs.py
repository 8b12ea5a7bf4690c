"""Read what a prediction needs from a video file, and say what was done to the file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jaxtyping import UInt8
from torch import Tensor

from components.foundation.errors import InputError
from components.video import excerpts
from components.video.excerpts import Excerpt, Outline

CONTEXT: Final = 5  # frames, unless the user chooses; fewer in a shorter video
SAME_RATE: Final = 0.02  # relative difference of two frame rates that counts as none


@dataclass(frozen=True, slots=True)
class Input:
    """Frames of a video file at the size and the rate of a model: the context, and the truth after it."""

    context: UInt8[Tensor, "f c h w"]
    truth: UInt8[Tensor, "f c h w"]  # the frames after the context; none at the end of the file
    first: int  # index in the file of the first context frame
    reader: str  # and the reason for it
    account: str  # what was done to the file, and which seconds are the context


class TooShortError(InputError):
    """A video with fewer frames than the context that was asked for."""


def read(
    file: Path,
    size: tuple[int, int],
    fps: float | None,
    *,
    start: float | None = None,
    context: int | None = None,
    frames: int = 0,
    every_picture: bool = False,
) -> Input:
    """Return `context` frames from `start` seconds on, and up to `frames` after them; without `start`, the last frames.

    Only the needed part of the file is decoded. `size` (height, width) and `fps` are those of the model's training
    clips. Pictures are converted to `fps` if that is known, unless `every_picture`. If `context` is None, it is
    CONTEXT, or all frames of a shorter video. Raise TooShortError if there are fewer than `context` frames, InputError
    if the file is unusable.
    """
    outline = excerpts.outline(file, size)
    rate = None if every_picture or not differs(outline, fps) else fps
    wanted = CONTEXT if context is None else context
    excerpt = excerpts.read(file, size, start, wanted + (0 if start is None else frames), rate)
    count = len(excerpt.frames)
    if context is not None and count < context:
        where = "" if start is None else f" from {start:g} s on"
        at = f" at {rate:g} frames a second" if rate else ""
        remedy = "lower it" if start is None else "lower it, or start earlier"
        raise TooShortError(f"{file} has {count} frames{where}{at}, but the context is {context}; {remedy}")
    used = min(wanted, count)
    return Input(
        excerpt.frames[:used],
        excerpt.frames[used:],
        excerpt.first,
        f"{excerpt.reader}: {excerpt.reason}",
        account(outline, size, excerpt, used, rates(outline, fps, rate), ends=start is None),
    )


def differs(outline: Outline, fps: float | None) -> bool:
    """Return whether the rate of a file is known and is not that of the training clips."""
    return bool(fps and outline.fps and abs(outline.fps / fps - 1) > SAME_RATE)


def rates(outline: Outline, fps: float | None, rate: float | None) -> str:
    """Return a phrase about the rate of the file, and that to which it was converted; empty if unknown."""
    if not outline.fps:
        return ""
    if rate:
        return f"{outline.fps:.4g} to {rate:.4g} frames a second"
    if differs(outline, fps):
        return f"all {outline.fps:.4g} frames a second, though the model was trained at {fps:.4g}"
    return f"{outline.fps:.4g} frames a second"


def account(outline: Outline, size: tuple[int, int], excerpt: Excerpt, context: int, rates: str, *, ends: bool) -> str:
    """Return one line about crop, size, frame rate and the seconds of the context."""
    parts = []
    if outline.part != outline.whole:
        parts.append(f"cropped from {_size(outline.whole)} to {_size(outline.part)}")
    if outline.part != size:
        parts.append(f"resized to {_size(size)}")
    parts = [*(parts or [f"{_size(size)} as the model takes it"]), *filter(None, [rates])]
    begin, end = excerpt.times[0], excerpt.times[context - 1]
    number = f"{'the last ' if ends else ''}{context} frame{'s' * (context > 1)}"
    parts.append(f"context: {number}, {begin:.2f} to {end:.2f} s")
    return ", ".join(parts)


def _size(size: tuple[int, int]) -> str:
    """Return height and width as people write sizes: width x height."""
    return f"{size[1]} x {size[0]}"
