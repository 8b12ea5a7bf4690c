"""Read a few frames from anywhere in a long video, without decoding all frames before them where possible.

Reading takes the time to read the packets of the whole file, once or twice, and to decode the groups of pictures around
the frames. It takes the memory of a few frames, and about 80 bytes for each packet. In some files, listed at `read`,
all pictures from the beginning are decoded, with a few in memory at a time.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets.resizing import resize
from components.foundation.errors import InputError
from components.video import container, decord_reader, pyav_reader, video
from components.video.decord_reader import Look
from components.video.pictures import Clock, Picture, gather
from components.video.rate import EARLY
from components.video.seeking import jumps, packets
from components.video.seeking.jumps import JumpError
from components.video.seeking.packets import Listing


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Successive frames of a video."""

    frames: UInt8[Tensor, "f c h w"]
    first: int  # index of the first of these frames in the video
    reader: str
    reason: str  # why this reader


def read(path: Path, size: tuple[int, int], start: float, count: int) -> Excerpt:
    """Return `count` frames, or fewer at the end, starting with the picture that is shown at `start` seconds.

    The packets of the whole file are read, but only the pictures from the preceding key frame on are decoded. In mp4,
    mov, mkv and webm files, decord decodes them if it can read the file and its first picture equals PyAV's. All
    pictures from the beginning are decoded if only the first key frame lies before `start`, or if the packets do not
    show the number and the order of the pictures: missing or repeated time stamps (raw streams), jumps of the clock or
    lost packets (joined transport streams), a truncated file, MPEG-4 packets that may hold no picture, false key
    frames, and interlaced pictures of two packets each.

    Raises InputError for a bad file as `video.scan` does, except for damage in parts that are not decoded, and if the
    video ends before `start`.
    """
    if start == 0:
        return part(path, size, 0, count)
    if start < 0:
        raise InputError(f"{path} has no frame at {start:g} s; start at 0 or later")
    listing = packets.listed(path)
    if listing.doubt:
        first, found = _played(path, start)
        return _excerpt(found, size, count, first, "pyav", listing.doubt)
    if start >= listing.end:
        raise _ends(path, listing.end, start)
    return _jumped(path, size, listing, listing.index_at(start), count)


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


def last(path: Path, size: tuple[int, int], most: int) -> Excerpt:
    """Return the last `most` frames of a video, or all frames of a shorter one.

    Seeks to them where `read` does. Otherwise all frames are decoded, and only about `most` of them are in memory.
    Raises InputError for a bad file as `video.scan` does, except for damage in skipped parts.
    """
    listing = packets.listed(path)
    if not listing.doubt and len(listing.times) > most:
        first = len(listing.times) - most
        excerpt = _jumped(path, size, listing, first, most + 1)  # one more would show that the count is wrong
        if len(excerpt.frames) == most:
            return excerpt
    held: deque[UInt8[Tensor, "f c h w"]] = deque()
    total = kept = 0
    for frames in video.frames(path, size):
        held.append(frames)
        total, kept = total + len(frames), kept + len(frames)
        while kept - len(held[0]) >= most:
            kept -= len(held.popleft())
    newest = torch.cat(list(held))[-most:]
    return Excerpt(newest, total - len(newest), "pyav", "the video is read to its end")


def newest(path: Path, size: tuple[int, int], first: int, count: int | None, most: int) -> Excerpt:
    """Return the last `most` of the `count` frames from index `first` on; if `count` is None, of all frames from there.

    If the video has fewer than `count` frames there, return the frames that it has, possibly none. Raises InputError as
    `part` and `last` do.
    """
    if count is not None:
        needed = min(count, most)
        return part(path, size, first + count - needed, needed)
    excerpt = last(path, size, most)
    before = min(max(0, first - excerpt.first), len(excerpt.frames))
    return Excerpt(excerpt.frames[before:], excerpt.first + before, excerpt.reader, excerpt.reason)


def limited(path: Path, size: tuple[int, int], most: int) -> UInt8[Tensor, "f c h w"]:
    """Return all frames of a video. Raises InputError as `video.scan` does, and for more than `most` frames."""
    found: list[Tensor] = []
    for frames in video.frames(path, size):
        found.append(frames)
        if sum(map(len, found)) > most:
            raise InputError(f"{path} has more than {most} frames; shorten it")
    return torch.cat(found)


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


def _played(path: Path, start: float) -> tuple[int, Iterator[Picture]]:
    """Return the index of the picture that is shown at `start` seconds, and the pictures from this index on.

    All pictures are decoded, and their time stamps are read as in `video.scan`. Raises InputError if the video ends
    before `start`.
    """
    with container.opened(path) as film:
        clock = Clock(film.header.nominal, film.header.form)
    pictures, before = _from_begin(path, 0), deque[Picture](maxlen=1)
    for number, picture in enumerate(pictures):
        if clock(picture.begin) > start + EARLY:
            return number - 1, itertools.chain(before, [picture], pictures)
        before.append(replace(picture, pixels=picture.pixels.copy()))  # the decoder uses its memory again
    end = clock.after(before[0].end)
    if start >= end:
        raise _ends(path, end, start)
    return number, iter(before)


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
