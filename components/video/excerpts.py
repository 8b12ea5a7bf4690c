"""Read a few frames from anywhere in a long video, without decoding all frames before them where possible.

Reading takes the time to read the packets of the whole file, once or twice, and to decode the groups of pictures around
the frames. It takes the memory of a few frames, and about 80 bytes for each packet. In some files, listed at `read`,
all pictures from the beginning are decoded, with a few in memory at a time.
"""

import contextlib
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets.resizing import resize, window
from components.foundation.errors import InputError
from components.video import container, decord_reader, pyav_reader, video
from components.video.decord_reader import Look
from components.video.pictures import Picture, gather
from components.video.rate import EARLY
from components.video.seeking import jumps, packets
from components.video.seeking.jumps import JumpError
from components.video.seeking.packets import Listing


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Frames of a video: successive pictures, or pictures at a fixed rate."""

    frames: UInt8[Tensor, "f c h w"]
    first: int  # index in the video of the picture that the first of these frames shows
    reader: str
    reason: str  # why this reader
    times: tuple[float, ...] = ()  # seconds at which each frame is shown; empty if the reader did not need them


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be known of a video without reading it: its size, its rate and its length."""

    whole: tuple[int, int]  # height and width of the first picture
    part: tuple[int, int]  # height and width of the central part that frames show
    fps: float  # mean frames per second according to the container; 0 if unknown


def outline(path: Path, size: tuple[int, int]) -> Outline:
    """Return the outline of a video for frames of `size`. Decodes the first picture. Raises InputError as `read`."""
    with container.opened(path) as film:
        for picture in pyav_reader.pictures(film, []):
            whole = (picture.pixels.shape[0], picture.pixels.shape[1])
            return Outline(whole, window(whole, size, picture.pixel)[2:], film.header.fps)
    raise InputError(f"{path} has no frames; copy it again or remove it")


def read(path: Path, size: tuple[int, int], start: float | None, count: int, fps: float | None = None) -> Excerpt:
    """Return `count` frames from the picture that is shown at `start` seconds on; the last ones if `start` is None.

    With `fps`, these are the pictures shown at that rate, after `start` or before the last picture; without, successive
    pictures. There are fewer frames if the video is too short.

    The packets of the whole file are read, but only the pictures from the preceding key frame on are decoded. In mp4,
    mov, mkv and webm files, decord decodes them if it can read the file and its first picture equals PyAV's. Pictures
    from the beginning on are decoded if `start` is 0, if only the first key frame lies before `start`, or if the
    packets do not show the number and the order of the pictures: missing or repeated time stamps (raw streams), jumps
    of the clock or lost packets (joined transport streams), a truncated file, MPEG-4 packets that may hold no picture,
    false key frames, and interlaced pictures of two packets each. Only the frames that may be returned are in memory.

    Raises InputError for a bad file as `video.scan` does, except for damage in parts that are not decoded, and if the
    video ends before `start`.
    """
    if start == 0:
        return _played(path, size, start, count, fps, "the excerpt begins the video")
    if start is not None and start < 0:
        raise InputError(f"{path} has no frame at {start:g} s; start at 0 or later")
    listing = packets.listed(path)
    if listing.doubt:
        return _played(path, size, start, count, fps, listing.doubt)
    chosen = _chosen(listing.times, listing.end, start, count, fps)
    if not chosen:
        raise _ends(path, listing.end, start or 0)
    ends = chosen[-1] + 1 == len(listing.times)
    length = chosen[-1] + 1 - chosen[0]
    excerpt = _jumped(path, size, listing, chosen[0], length + ends)  # one more would show that the count is wrong
    if len(excerpt.frames) != length:
        return _played(path, size, start, count, fps, "the video is read to its end")
    frames = excerpt.frames[[index - chosen[0] for index in chosen]]
    return replace(excerpt, frames=frames, times=tuple(listing.times[index] for index in chosen))


def part(path: Path, size: tuple[int, int], first: int, count: int) -> Excerpt:
    """Return `count` frames from index `first` on, or fewer at the end of the video.

    Decodes the same pictures as `read`; if `first` is 0, only the returned frames. Raises InputError as `read` does,
    and if the video has no frame with this index.
    """
    if first == 0:
        return _excerpt(_from_begin(path, 0), size, count, 0, "pyav", "the excerpt begins the video")
    listing = packets.listed(path)
    if first >= len(listing.times) and not listing.doubt:
        raise InputError(f"{path} has {len(listing.times)} frames, so it has no frame {first}; start earlier")
    return _jumped(path, size, listing, first, count)


def newest(path: Path, size: tuple[int, int], first: int, count: int | None, most: int) -> Excerpt:
    """Return the last `most` of the `count` frames from index `first` on; if `count` is None, of all frames from there.

    If the video has fewer than `count` frames there, return the frames that it has, possibly none. Raises InputError as
    `part` and `read` do.
    """
    if count is not None:
        needed = min(count, most)
        return part(path, size, first + count - needed, needed)
    excerpt = read(path, size, None, most)
    before = min(max(0, first - excerpt.first), len(excerpt.frames))
    return replace(excerpt, frames=excerpt.frames[before:], first=excerpt.first + before, times=excerpt.times[before:])


def _chosen(times: Sequence[float], end: float, start: float | None, count: int, fps: float | None) -> list[int]:
    """Return which pictures `read` returns, by their times and the end of the last one; none if `start` is too late."""
    if start is not None and start >= end:
        return []
    if fps is None:
        first = max(0, len(times) - count) if start is None else _at(times, start)
        return list(range(first, min(first + count, len(times))))
    steps = [number / fps for number in range(count)]
    if start is None:
        return [_at(times, times[-1] - step) for step in reversed(steps) if step <= times[-1] + EARLY]
    return [_at(times, start + step) for step in steps if not step or start + step + EARLY < end]


def _at(times: Sequence[float], time: float) -> int:
    """Return the index of the picture that is shown at a time; the first one before the beginning."""
    return max(0, bisect_right(times, time + EARLY) - 1)


def _played(path: Path, size: tuple[int, int], start: float | None, count: int, fps: float | None, why: str) -> Excerpt:
    """Return what `read` does, by decoding pictures from the beginning, up to the last that is needed."""
    held: deque[tuple[float, Tensor]] = deque()
    dropped, end, length = 0, 0.0, (count - 1) / fps if fps else 0.0
    with contextlib.closing(video.frames(path, size)) as parts:
        for part in parts:
            held.extend(zip(part.times, part.frames, strict=True))
            end = part.end
            begin = held[-1][0] - length if start is None else start
            whole = fps is None and start is None
            while len(held) > 1 and (len(held) > count if whole else held[1][0] <= begin + EARLY):
                held.popleft()
                dropped += 1
            after = len(held) > count if fps is None else held[-1][0] > begin + length + EARLY
            if start is not None and after and held[-1][0] > start + EARLY:
                break
    times = [time for time, _ in held]
    chosen = _chosen(times, end, start, count, fps)
    if not chosen:
        raise _ends(path, end, start or 0)
    frames = torch.stack([held[index][1] for index in chosen])
    return Excerpt(frames, dropped + chosen[0], "pyav", why, tuple(times[index] for index in chosen))


def _jumped(path: Path, size: tuple[int, int], listing: Listing, first: int, count: int) -> Excerpt:
    """Return `count` frames from index `first` on, decoded from a key frame if possible, by decord or else by PyAV."""
    reason = listing.doubt or listing.refusal or ""
    for start in jumps.starts(listing, first):
        if not reason and listing.indexed:
            try:
                sure = next(jumps.pictures(path, listing, start, first))
                jumped = decord_reader.pictures(path, Look(None, listing.times, listing.end, sure.pixel, None), first)
                head = next(jumped)
                if np.array_equal(head.pixels, sure.pixels):
                    found: Iterator[Picture] = itertools.chain([head], jumped)
                    return _excerpt(found, size, count, first, "decord", "decord can seek in it")
                reason = "decord seeks to another picture"
            except decord_reader.DecordError as error:
                reason = str(error)
            except JumpError:
                continue
        with contextlib.suppress(JumpError):
            found = jumps.pictures(path, listing, start, first)
            return _excerpt(found, size, count, first, "pyav", reason or "decord cannot seek in it")
    reason = reason or "there is no other key frame to start from"
    return _excerpt(_from_begin(path, first), size, count, first, "pyav", reason)


def _excerpt(
    pictures: Iterator[Picture], size: tuple[int, int], count: int, first: int, reader: str, reason: str
) -> Excerpt:
    chunks = gather(itertools.islice(pictures, count), size)
    frames = [resize(torch.from_numpy(chunk.pictures).permute(0, 3, 1, 2), size) for chunk in chunks]
    return Excerpt(torch.cat(frames), first, reader, reason)


def _ends(path: Path, end: float, start: float) -> InputError:
    return InputError(f"{path} lasts {end:.3g} s, so it has no frame at {start:g} s; start earlier")


def _from_begin(path: Path, first: int) -> Iterator[Picture]:
    """Yield the pictures from index `first` on. PyAV decodes all pictures from the beginning of the file."""
    with container.opened(path) as film:
        found = False
        for picture in itertools.islice(pyav_reader.pictures(film, []), first, None):
            found = True
            yield picture
    if not found:
        problem = f"ends before frame {first}; start earlier" if first else "has no frames; copy it again or remove it"
        raise InputError(f"{path} {problem}")
