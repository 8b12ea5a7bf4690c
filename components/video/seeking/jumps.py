"""Seek to a key frame and decode from there, with the same pictures as by decoding the video from its beginning.

Each packet gets its number as its time stamp, so the time stamp of a decoded frame is the number of its packet. The
result of a seek is used only if the packets after the seek equal the listed ones, if the key frame does not depend on
other frames, and if the decoded frames belong to the expected packets.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import PictureType

from components.video import container, pyav_reader
from components.video.container import Film
from components.video.pictures import Picture
from components.video.pyav_reader import MOST_REORDERED
from components.video.seeking.packets import Listing, row

_FAULTS: Final = (av.FFmpegError, OSError, ValueError)
Numbered = Iterator[tuple[int | None, Any]]  # frames with the numbers of their packets


class JumpError(Exception):
    """Decoding from this key frame on may not give the same pictures as decoding the whole file."""


def starts(listing: Listing, first: int) -> Sequence[int]:
    """Return the packets with key frames from which the picture with index `first` may be decoded, the nearest first.

    Return none if the listing is doubtful, or if only the first key frame of the file lies before the picture.
    """
    if listing.doubt or first >= len(listing.times):
        return ()
    if listing.shown is None:
        return listing.keys[_before(listing) <= first - MOST_REORDERED][1:][-2:-1].tolist()
    wanted = listing.rows[listing.shown[first], 0]
    keys = listing.keys[listing.rows[listing.keys, 0] <= wanted]
    return keys[keys <= listing.shown[first:].min()][1:][:-3:-1].tolist()


def pictures(path: Path, listing: Listing, start: int, first: int) -> Iterator[Picture]:
    """Yield the pictures from index `first` on, decoded from the packet `start` on.

    Raises JumpError, possibly after some pictures, if they may differ from those of decoding the whole file.
    """
    with _opened(path, listing, start) as (film, packets):
        stamps, ordered = listing.rows[:, 0], listing.shown is not None
        frames = pyav_reader.numbered(film, packets, lambda number: ordered and bool(stamps[number] < stamps[start]))
        checked = _checked(frames, start)
        chosen = _ordered(checked, listing, start, first) if ordered else _counted(checked, listing, start, first)
        try:
            yield from pyav_reader.converted(film, chosen)
        except (pyav_reader.DecodingError, *_FAULTS):
            raise JumpError from None


@contextmanager
def _opened(path: Path, listing: Listing, start: int) -> Iterator[tuple[Film, Iterator[tuple[int, Any]]]]:
    """Open a file, seek to the packet `start`, and yield the file and the packets from `start` on with their numbers.

    If the seek ends at a later packet, read the file from its beginning and skip the packets before `start`. Raises
    JumpError if that fails too.
    """
    for jumps in (True, False):
        with container.opened(path) as film:
            packets = _sought(film, listing, start, jumps)
            if packets is not None:
                yield film, packets
                return
    raise JumpError


def _sought(film: Film, listing: Listing, start: int, jumps: bool) -> Iterator[tuple[int, Any]] | None:
    """Return the packets from `start` on; None if a seek ends after `start`, or the packets differ from the listing.

    `jumps`: whether to seek, or to read the file from its beginning.
    """
    try:
        if jumps:
            film.container.seek(listing.stamp(start), stream=film.stream)
        packets = (packet for packet in film.container.demux(film.stream) if packet.size)
        first = next(packets, None)
        number = None if first is None else listing.find(first) if jumps else 0
        if number is None or number > start:
            return None
        following = _same(enumerate(itertools.chain([first], packets), number), listing, start)
        return itertools.chain(list(itertools.islice(following, 2 * MOST_REORDERED)), following)
    except (JumpError, *_FAULTS):
        return None


def _same(packets: Iterator[tuple[int, Any]], listing: Listing, start: int) -> Iterator[tuple[int, Any]]:
    """Yield the packets from `start` on. Raises JumpError if a packet differs from the listing."""
    for number, packet in packets:
        if number >= len(listing.rows) or row(packet) != tuple(listing.rows[number].tolist()):
            raise JumpError
        if number >= start:
            yield number, packet


def _checked(frames: Numbered, start: int) -> Numbered:
    """Yield the frames. Raises JumpError if a frame is damaged, or if the key frame may depend on other frames.

    Some decoders state no picture type, among them that of QuickTime Animation, whose key frames depend on others.
    """
    for number, frame in frames:
        if frame.is_corrupt or (number == start and frame.pict_type != PictureType.I):
            raise JumpError
        yield number, frame


def _ordered(frames: Numbered, listing: Listing, start: int, first: int) -> Iterator[Any]:
    """Yield the frames from index `first` on, in the order of the packets' time stamps."""
    assert listing.shown is not None
    due = listing.shown[first:]
    met = not listing.visible[start]  # whether the key frame gave a frame, if it should
    for number, frame in frames:
        met |= number == start
        if number == due[0] and met:
            yield frame
            break
    else:
        raise JumpError
    for expected in due[1:]:
        number, frame = next(frames, (None, None))
        if number != expected:
            raise JumpError
        yield frame
    if next(frames, None) is not None:
        raise JumpError


def _counted(frames: Numbered, listing: Listing, start: int, first: int) -> Iterator[Any]:
    """Yield the frames from index `first` on, for files whose time stamps do not give the order of the frames.

    The second key frame after `start` has a known index, and the frames after it are counted. All packets before the
    second key frame are shown before it. Frames directly after the first key frame may be missing, because they depend
    on frames before the first key frame.
    """
    before = _before(listing)
    middle = int(listing.keys[before <= first - MOST_REORDERED][-1])
    met, index = set[int | None](), -1
    for number, frame in frames:
        if number == middle:
            missing = [n for n in range(start, middle) if n not in met]
            index = int(before[listing.keys == middle][0]) + sum(n is not None and n > middle for n in met)
            if missing != list(range(start + 1, start + 1 + len(missing))) or index > first:
                raise JumpError
        elif index >= 0:
            index += 1
        else:
            met.add(number)
        if index >= first:
            yield frame
    if index != len(listing.times) - 1:
        raise JumpError


def _before(listing: Listing) -> Any:
    """Return, for each key frame, the number of pictures in the packets before it."""
    return np.concatenate([[0], np.cumsum(listing.visible)])[listing.keys]
