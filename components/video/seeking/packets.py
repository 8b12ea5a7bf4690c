"""The packets of a video: when each picture is shown, and from which key frames it can be decoded.

Listing the packets reads a file once from its beginning to its end and decodes at most its first pictures.
"""

import itertools
import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from components.foundation.errors import InputError
from components.video import container, decord_reader, lengths, pyav_reader
from components.video.container import Film
from components.video.pictures import LONGEST_IN_A_STREAM, STREAMS, Clock
from components.video.pyav_reader import MOST_REORDERED
from components.video.rate import EARLY

INDEXED: Final = frozenset({lengths.MOV, lengths.MATROSKA})  # formats in which decord seeks to the right picture
_UNKNOWN: Final = -(2**63)  # a time stamp that is missing
_FAULTS: Final = (av.FFmpegError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Listing:
    """The packets of the shown stream, in the order of the file, and the pictures that a reader of the whole shows."""

    rows: Int64[ndarray, "_ 5"]  # of each packet: see `row`
    visible: Bool[ndarray, "_"]  # whether a picture of the packet is shown
    shown: Int64[ndarray, "_"] | None  # packet of each picture, in the order of showing; None if only decoding shows it
    times: tuple[float, ...]  # when each picture is shown, in seconds since the first one
    end: float  # when the last picture ends
    refusal: str | None  # the reason why decord should not read the file
    doubt: str | None  # the reason why pictures can only be counted by decoding all of them; the rest may then be wrong
    indexed: bool  # whether decord can seek in the container

    @property
    def keys(self) -> Int64[ndarray, "_"]:
        """The packets with key frames."""
        return np.flatnonzero(self.rows[:, 3])

    def index_at(self, start: float) -> int:
        """Return the index of the picture that is shown at `start` seconds."""
        return bisect_right(self.times, start + EARLY) - 1

    def stamp(self, number: int) -> int:
        """Return the time stamp for a seek to a packet: the decoding time, or the presentation time if it has none."""
        pts, dts = self.rows[number, :2].tolist()
        return pts if dts == _UNKNOWN else dts

    def find(self, packet: Any) -> int | None:
        """Return the number of a packet in this listing; None if no packet or more than one packet equals it."""
        found = np.flatnonzero((self.rows == np.array(row(packet))).all(axis=1))
        return int(found[0]) if len(found) == 1 else None


def row(packet: Any) -> tuple[int, int, int, int, int]:
    """Return presentation time, decoding time and duration in ticks, 1 for a key frame or 0, and the size in bytes."""
    pts, dts, duration = container.packet_times(packet)
    stamps = (_UNKNOWN if pts is None else pts, _UNKNOWN if dts is None else dts)
    return *stamps, duration, int(packet.is_keyframe), packet.size


def listed(path: Path) -> Listing:
    """List the packets of a file. Raises InputError for a bad file as `container.opened` does, or without pictures."""
    with container.opened(path) as film:
        header = film.header
        refused = "decord is not installed" if decord_reader.library() is None else decord_reader.faulty(film)
        rows, visible, doubt = _read(film)
        if not visible.any():
            raise InputError(f"{path} has no frames; copy it again or remove it")
        if doubt is None:
            doubt = _doubt(film, rows, visible)
        stamps = rows[:, 1 if header.form == lengths.AVI else 0]
        if doubt is None:
            visible, doubt = _decodable(film, rows, visible)
        order = np.flatnonzero(visible)
        order = order[np.argsort(stamps[order], kind="stable")]
        tick, clock = float(film.stream.time_base), Clock(header.nominal, header.form)
        times = tuple(clock(math.nan if stamp == _UNKNOWN else stamp * tick) for stamp in stamps[order].tolist())
        last = rows[order[-1]]
        end = clock.after(stamps[order[-1]] * tick + (float(last[2]) * tick or header.nominal))
        shown = None if header.form == lengths.AVI else order
        return Listing(rows, visible, shown, times, end, refused, doubt, header.form in INDEXED)


def _read(film: Film) -> tuple[Int64[ndarray, "n 5"], Bool[ndarray, " n"], str | None]:
    """Return the packets that can be read, whether each shows a picture, and the reason why packets may be missing."""
    values, visible, doubt = array("q"), bytearray(), None
    waits = film.header.codec in pyav_reader.PREDICTED  # for a key frame; pictures before it are not decoded
    vp8 = film.header.codec == "vp8"
    try:
        for packet in film.container.demux(film.stream):
            if not packet.size:
                continue
            waits = waits and not packet.is_keyframe
            values.extend(row(packet))
            hidden = packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)  # RFC 6386, 9.1: show_frame
            visible.append(not (waits or hidden))
            if packet.is_corrupt:
                doubt = "packets are lost"
            elif container.may_be_empty(film.header.codec, packet):
                doubt = "some packets may hold no picture"
    except _FAULTS:
        doubt = "the file cannot be read to its end"
    rows = np.frombuffer(values, np.int64).reshape(-1, 5) if values else np.empty((0, 5), np.int64)
    return rows, np.frombuffer(visible, np.bool_), doubt


def _doubt(film: Film, rows: Int64[ndarray, "n 5"], visible: Bool[ndarray, " n"]) -> str | None:
    """Return why the packets do not determine the number and order of the pictures; None if they do."""
    form, longest = film.header.form, LONGEST_IN_A_STREAM if film.header.form in STREAMS else math.inf
    decoding = rows[rows[:, 1] != _UNKNOWN, 1]
    stamps = rows[visible, 1 if form == lengths.AVI else 0]
    order = np.argsort(stamps, kind="stable")
    steps = np.diff(stamps[order]) * float(film.stream.time_base)
    moved = np.abs(order - np.arange(len(order))) > MOST_REORDERED
    reasons = {
        "time stamps are missing": bool((stamps == _UNKNOWN).any()) or container.stamp(film.header, 0, 0) is None,
        "its clock jumps": bool((np.diff(decoding) < 0).any() or (steps > longest).any() or moved.any()),
        "time stamps are repeated": bool((steps == 0).any()),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _decodable(
    film: Film, rows: Int64[ndarray, "n 5"], visible: Bool[ndarray, " n"]
) -> tuple[Bool[ndarray, " n"], str | None]:
    """Return which packets show a picture, without packets that depend on pictures before the beginning of the file.

    Such packets follow the first packet, and their presentation times are before its own. If there may be such packets,
    the first pictures are decoded. Also return the reason why the number of pictures may still be wrong, or None.
    """
    first = int(np.flatnonzero(visible)[0])
    if film.header.form != lengths.AVI and not (rows[first:, 0] < rows[first, 0]).any():
        return visible, None
    with container.opened(film.path) as again:
        begin = int(np.flatnonzero(rows[:, 3])[0]) if film.header.codec in pyav_reader.PREDICTED else 0
        packets = enumerate(packet for packet in again.container.demux(again.stream) if packet.size)
        taken = itertools.islice(packets, begin, first + 2 * MOST_REORDERED)
        given = [number for number, _ in pyav_reader.numbered(again, taken, lambda number: True)]
    decodable = visible.copy()
    near = slice(first, first + MOST_REORDERED)
    decodable[near] &= np.isin(np.arange(len(rows))[near], [number for number in given if number is not None])
    return decodable, None if len(set(given)) == len(given) else "its first packets hold other pictures"
