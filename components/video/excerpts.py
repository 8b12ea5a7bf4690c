"""Read a few frames from anywhere in a long video, without decoding the frames before them where possible."""

import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets.resizing import resize
from components.foundation.errors import InputError
from components.video import container, decord_reader, lengths, pyav_reader, video
from components.video.decord_reader import Look
from components.video.pictures import Picture, gather
from components.video.rate import EARLY


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Consecutive frames of a video."""

    frames: UInt8[Tensor, "f c h w"]
    first: int  # index of the first of these frames in the video
    reader: str
    reason: str  # why this reader


@dataclass(frozen=True, slots=True)
class _Seen:
    refusal: str | None  # the reason why decord should not read the file
    times: tuple[float, ...]  # when each picture is shown, in seconds
    end: float  # when the last picture ends
    indexed: bool  # whether the container leads from a time to the key frame before
    counted: bool  # whether each time is that of one picture


def read(path: Path, size: tuple[int, int], start: float, count: int) -> Excerpt:
    """Return `count` frames, or fewer at the end, starting with the picture that is shown at `start` seconds.

    decord seeks to that picture. It must equal the picture that PyAV decodes from the preceding key frame; otherwise,
    or if decord cannot read the file, PyAV reads the frames. Raises InputError for a bad file as `video.scan` does, and
    if the video ends before `start`.
    """
    if start == 0:
        return part(path, size, 0, count)
    seen = _seen(path)
    begin = seen.times[0] + start
    if start < 0 or begin >= seen.end:
        lasts = seen.end - seen.times[0]
        raise InputError(f"{path} lasts {lasts:.3g} s, so it has no frame at {start:g} s; start earlier")
    return _jumped(path, size, seen, bisect_right(seen.times, begin + EARLY) - 1, count)


def part(path: Path, size: tuple[int, int], first: int, count: int) -> Excerpt:
    """Return `count` frames from index `first` on, or fewer at the end of the video.

    Reads no more of the file than these frames need. Raises InputError as `read` does, and if there is no frame
    `first`.
    """
    if first == 0:
        return _excerpt(_from_begin(path, 0), size, count, 0, "pyav", "the excerpt begins the video")
    seen = _seen(path)
    if first >= len(seen.times):
        raise InputError(f"{path} has {len(seen.times)} frames, so it has no frame {first}; start earlier")
    return _jumped(path, size, seen, first, count)


def last(path: Path, size: tuple[int, int], most: int) -> Excerpt:
    """Return the last `most` frames of a video, or all frames of a shorter one.

    Seeks to them if the container has an index of its pictures. Otherwise all frames are decoded, and only about `most`
    of them are in memory. Raises InputError for a bad file as `video.scan` does, except for damage in skipped parts.
    """
    seen = _seen(path)
    if seen.indexed and seen.counted and len(seen.times) > most:
        first = len(seen.times) - most
        excerpt = _jumped(path, size, seen, first, most + 1)  # one more would show that the count is wrong
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
    """Return the last `most` of the `count` frames from index `first` on; if `count` is None, up to the video's end.

    If the video ends earlier, fewer frames are returned, possibly none. Raises InputError as `part` and `last` do.
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


def _jumped(path: Path, size: tuple[int, int], seen: _Seen, first: int, count: int) -> Excerpt:
    reason = seen.refusal or ("decord can seek in it" if seen.indexed else "the container has no index of its times")
    if not seen.refusal and seen.indexed:
        try:
            sure = next(_decoded(path, seen, first))
            jumped = decord_reader.pictures(path, Look(None, seen.times, seen.end, sure.pixel), first)
            head = next(jumped)
            if np.array_equal(head.pixels, sure.pixels):
                return _excerpt(itertools.chain([head], jumped), size, count, first, "decord", reason)
            reason = "decord seeks to another picture"
        except decord_reader.DecordError as error:
            reason = str(error)
    return _excerpt(_decoded(path, seen, first), size, count, first, "pyav", reason)


def _excerpt(
    pictures: Iterator[Picture], size: tuple[int, int], count: int, first: int, reader: str, reason: str
) -> Excerpt:
    chunks = gather(itertools.islice(pictures, count), size)
    frames = [resize(torch.from_numpy(chunk.pictures).permute(0, 3, 1, 2), size) for chunk in chunks]
    return Excerpt(torch.cat(frames), first, reader, reason)


def _decoded(path: Path, seen: _Seen, first: int) -> Iterator[Picture]:
    """Yield the pictures from the one with index `first` on, by PyAV, decoded from the key frame before.

    If the container has no index or it leads to another place, all pictures are decoded. Raises InputError if the
    picture is missing.
    """
    moment = seen.times[first]
    if first and seen.indexed:
        with container.opened(path) as film:
            film.container.seek(int(moment / film.stream.time_base), stream=film.stream)
            left = itertools.dropwhile(lambda picture: picture.begin < moment - EARLY, pyav_reader.pictures(film, []))
            head = next(left, None)
            if head is not None and abs(head.begin - moment) <= EARLY:
                yield head
                yield from left
                return
    yield from _from_begin(path, first)


def _from_begin(path: Path, first: int) -> Iterator[Picture]:
    """Yield the pictures from the one with index `first` on, by PyAV, of which all before are decoded too."""
    with container.opened(path) as film:
        found = False
        for picture in itertools.islice(pyav_reader.pictures(film, []), first, None):
            found = True
            yield picture
    if not found:
        told = f"ends before frame {first}; start earlier" if first else "has no frames; copy it again or remove it"
        raise InputError(f"{path} {told}")


def _seen(path: Path) -> _Seen:
    """Return the times of all pictures, without decoding, and why decord should not read the file."""
    with container.opened(path) as film:
        refused = "decord is not installed" if decord_reader.library() is None else decord_reader.faulty(film)
        packets, counted = [], True
        waits = film.header.codec in pyav_reader.PREDICTED  # for a key frame; pictures before it are not decoded
        try:
            for packet in film.container.demux(film.stream):
                waits = waits and not packet.is_keyframe
                if packet.size and not packet.is_discard and not waits:
                    packets.append(container.packet_times(packet))
        except (av.FFmpegError, OSError, ValueError):
            refused, counted = "the file is cut off", False
        times, end = container.picture_times(film, packets)
        if math.isnan(end):
            refused, counted, step = "time stamps are missing", False, film.header.nominal
            times, end = tuple(step * number for number in range(len(times))), step * len(times)
        if not times:
            raise InputError(f"{path} has no frames; copy it again or remove it")
        return _Seen(refused, times, end, film.header.form in (lengths.MOV, lengths.MATROSKA), counted)
