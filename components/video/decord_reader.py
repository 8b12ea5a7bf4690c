"""Decode all pictures of a video file with decord, if decord decodes the file correctly.

decord shows frames that an edit list hides and pictures that cannot be decoded, stretches pictures whose size changes,
and mixes the colours of two fields. `refusal` and `look` detect files where this can happen from their header, index
and key frames. decord also returns damaged pictures without an error, and repeats pictures where it loses others;
`pictures` raises one if FFmpeg or decord reports this.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import torch

from components.video import container, lengths
from components.video.container import Film, may_be_empty, packet_times, picture_times
from components.video.ffmpeg_reports import reports
from components.video.pictures import Picture
from components.video.pyav_reader import display_matrix, transposes

FORMATS: Final = frozenset({lengths.MOV, lengths.MATROSKA, lengths.AVI})
CODECS: Final = frozenset({"h264", "hevc", "vp9", "mpeg4", "av1", "libdav1d"})
MOST_BYTES: Final = 2**30  # of decoded pictures; decord's memory grows with the length of a video


@dataclass(frozen=True, slots=True)
class Look:
    """Result of `look`: whether decord can read a file, and the times of its pictures."""

    refusal: str | None  # the reason why decord should not read the file
    times: tuple[float, ...]  # when each picture of the file is shown, in seconds; NaN if unknown
    end: float  # when the last picture ends
    pixel: float  # width of a shown pixel relative to its height
    size: tuple[int, int] | None  # height and width of the upright pictures; None if unknown


class DecordError(Exception):
    """decord failed, or returned damaged pictures or another number of pictures than the file has."""


@cache
def library() -> Any:
    """Return the package decord, or None if it is not installed."""
    # tell every picture that is repeated for another one; decord reads this when it is imported
    os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0"
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.ERROR)  # `reports` searches for its error lines
    return decord


def refusal(film: Film) -> str | None:
    """Return why decord should not read a whole file, judged by its header; None if it should."""
    if film.header.size > MOST_BYTES:
        return "the video is long"
    return faulty(film)


def faulty(film: Film) -> str | None:
    """Return why decord would decode a file wrongly, judged by its header; None if it would not."""
    header = film.header
    reasons = {
        "the container is not mp4, mov, mkv, webm or avi": header.form not in FORMATS,
        f"the codec is {header.codec}": header.codec not in CODECS,
        "the file has several video streams": header.streams > 1,
        "the container does not state the length": not header.size,
        "the file is cut off": bool(header.missing),
        "the pictures are narrow": header.width < 128 and header.width % 64 != 0,  # decord may misplace their rows
        "an edit list hides frames": header.form == lengths.MOV and _hides(film),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def look(film: Film) -> Look:
    """Decode the key frames and read the time stamps of all pictures, because decord's own are wrong for some files.

    Detects damaged key frames, a first frame that is no key frame, key frames of several sizes, mirrored pictures, and
    packets without a picture, which decord counts.
    """
    context = film.stream.codec_context
    context.thread_count, context.skip_frame = 1, "NONKEY"
    context.options = {"err_detect": "explode"}
    packets, keys = [], []
    pixel, sizes, mirrored, empty, interlaced = film.header.pixel, set(), False, False, False
    try:
        for packet in film.container.demux(film.stream):
            if packet.size and not packet.is_discard:
                packets.append(packet_times(packet))
                keys.append(packet.is_keyframe)
                empty |= may_be_empty(film.header.codec, packet)
            for frame in packet.decode() if packet.is_keyframe or not packet.size else ():
                matrix = display_matrix(frame)
                across = matrix is not None and transposes(matrix)
                sizes.add((frame.width, frame.height) if across else (frame.height, frame.width))
                pixel = 1 / film.header.pixel if across else film.header.pixel
                mirrored |= matrix is not None and matrix[0] * matrix[3] < matrix[1] * matrix[2]
                interlaced |= frame.interlaced_frame
    except (av.FFmpegError, OSError, ValueError):
        return Look("a key frame is damaged", (), math.nan, pixel, None)
    reasons = {
        "the first frame is no key frame": bool(keys) and not keys[0],
        "pictures before the first key frame are missing": _looks_back(film, packets),
        "the size of the pictures changes": len(sizes) > 1,
        "the pictures are mirrored": mirrored,
        "the pictures are interlaced": interlaced,  # decord mixes the colours of the two fields
        "some packets may hold no picture": empty,
    }
    refused = next((reason for reason, holds in reasons.items() if holds), None)
    times, end = picture_times(film, packets)
    return Look(refused, times, end, pixel, next(iter(sizes), None))


def pictures(path: Path, seen: Look, first: int = 0) -> Iterator[Picture]:
    """Yield the pictures from index `first` on, in order and upright.

    Raises DecordError if pictures are missing or decord reports an error.
    """
    decord, count, number = library(), len(seen.times), first
    with reports() as reported:
        try:
            reader = decord.VideoReader(str(path), num_threads=1)
            if len(reader) != count:
                raise DecordError(f"decord finds {len(reader)} of {count} frames")
            if first:
                reader.seek_accurate(first)
            for begin in seen.times[first:]:
                pixels = torch.from_dlpack(reader.next().to_dlpack())
                if pixels.shape[-1] != 3:
                    raise DecordError("decord misplaces the rows of the pictures")
                if seen.size not in (None, pixels.shape[:2]):
                    raise DecordError("decord crops the pictures differently")
                yield Picture(pixels.numpy(), begin, seen.end, seen.pixel)
                number += 1
        except StopIteration:
            raise DecordError(f"decord stops after {number} of {count} frames") from None
        except (decord.DECORDError, RuntimeError, AssertionError, IndexError, ValueError):
            raise DecordError(f"decord fails after {number} of {count} frames") from None
        if reported():
            raise DecordError("decord or its FFmpeg reports damage")


def _looks_back(film: Film, packets: Sequence[tuple[int | None, int | None, int]]) -> bool:
    """Return whether the first pictures depend on some from before the beginning of the file."""
    times = [container.stamp(film.header, pts, dts) for pts, dts, _ in packets]
    return any(time is not None and time < times[0] for time in times) if times and times[0] is not None else False


def _hides(film: Film) -> bool:
    """Return whether an mp4 or mov file holds frames that players do not show."""
    entries = film.stream.index_entries
    return len(entries) != film.header.declared > 0 or any(entry.is_discard for entry in entries)
