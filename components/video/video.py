"""Decode video files to frames; `write` and `write_gif`, which encode clips, are available here too.

A file is decoded from its first picture to its last, on one thread, by decord or by PyAV. Both give the same pictures,
except for videos with more than 8 bits per channel. Decoders are closed before a call returns, because a decoder that
is open during a fork hangs in the child process.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from components.datasets.resizing import fit, resize
from components.foundation.errors import InputError
from components.video import container, decord_reader, lengths, pyav_reader
from components.video.container import Header
from components.video.pictures import Chunk, Clock, gather
from components.video.rate import FixedRate
from components.video.writing import write, write_gif

__all__ = ["SUFFIXES", "Decoding", "Facts", "Video", "fit", "frames", "read", "scan", "write", "write_gif"]

# suffixes, in lower case, of the files that count as videos in a folder
SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".f4v", ".ismv", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".3gp2", ".mkv", ".webm", ".avi", ".divx"}
    | {".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".vob", ".ts", ".m2t", ".m2ts", ".mts", ".trp", ".tod"}
    | {".wmv", ".asf", ".wtv", ".flv", ".ogv", ".ogm", ".mxf", ".gxf", ".dv", ".rm", ".rmvb", ".nut", ".gif", ".apng"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".obu", ".ivf", ".mjpeg", ".mjpg", ".y4m"}
)
Reader = Literal["auto", "decord", "pyav"]
_LENGTH_TOLERANCE: Final = 0.05  # share of the length that the container states


@dataclass(frozen=True, slots=True)
class Decoding:
    """Settings for decoding a video: frame size, reader and frame rate."""

    size: tuple[int, int]  # height, width in pixels
    reader: Reader  # auto: decord where it reads the file correctly, PyAV otherwise
    fps: float | None  # frames per second; None keeps every picture of the file, whatever its rate


@dataclass(frozen=True, slots=True)
class Facts:
    """Metadata of a video: from its container and from its decoded pictures."""

    count: int  # frames that were passed on
    fps: float  # mean frames per second of the file; 0 if unknown
    steady: bool  # whether all pictures are shown equally long
    declared: int  # number of pictures according to the container; 0 if unknown
    duration: float  # seconds according to the container; 0 if unknown
    repeated: float  # share of decoded pictures that are bit-identical to the one before
    sizes: tuple[tuple[int, int], ...]  # distinct (height, width) of the decoded pictures, in order of appearance
    reader: str  # "decord" or "pyav", or what else gave the pictures
    reason: str  # why this reader
    doubts: tuple[str, ...]  # what is suspicious about the file


@dataclass(frozen=True, slots=True)
class Video(Facts):
    """A whole video in memory, with its metadata."""

    frames: UInt8[Tensor, "f c h w"]  # RGB


@dataclass(frozen=True, slots=True)
class Shown:
    """Successive frames of a video with the times at which they are shown."""

    frames: UInt8[Tensor, "f c h w"]
    times: tuple[float, ...]  # seconds since the first picture of the video
    end: float  # when the last of these frames ends


Take = Callable[[UInt8[Tensor, "f c h w"]], None]  # receives the next frames of a video
Begin = Callable[[], Take]  # starts a video; a second call discards what the first one's function received


def why_no_video(path: Path) -> str | None:
    """Return why a file in a folder does not count as a video; None if it does.

    The suffix decides; a file without a suffix counts if its first bytes are those of a video container.
    """
    suffix = path.suffix.lower()
    if suffix:
        return None if suffix in SUFFIXES else f"ends in {suffix}, as no video does"
    return None if lengths.begins_like_a_video(path) else "does not begin like a video"


def check(reader: Reader) -> None:
    """Raise InputError if the reader is not installed."""
    if reader == "decord" and decord_reader.library() is None:
        raise InputError("reader is decord, which is not installed; install decord2 or set reader to auto")


def versions() -> dict[str, str | None]:
    """Return the versions of the decoding libraries; decord's is None if it is not installed."""
    return {"av": metadata.version("av"), "decord": getattr(decord_reader.library(), "__version__", None)}


def scan(path: Path, how: Decoding, begin: Begin) -> Facts:
    """Decode a video file of any length, pass its frames on in order in chunks, and return its metadata.

    Calls `begin` first, and again if decord has failed and PyAV reads the file from the start. Pictures are rotated
    upright, cropped and resized to `how.size` with the aspect ratio that players show. Raises InputError if the file is
    missing, empty, not a video, without a video stream, damaged or truncated, possibly after some frames were passed
    on.
    """
    header, seen, reason = _examined(path, how.reader)
    if seen is not None:
        passage = _Passage(header, how, begin())
        try:
            passage.take(gather(decord_reader.pictures(path, seen), how.size))
            misread = [f"may be misread, as reader is decord: {seen.refusal}"] if seen.refusal else []
            return passage.facts("decord", reason, [*misread, *_length_doubts(path, header, passage)])
        except decord_reader.DecordError as fault:
            reason = str(fault)
    doubts: list[str] = []
    passage = _Passage(header, how, begin())
    with container.opened(path) as film:
        passage.take(gather(pyav_reader.pictures(film, doubts), how.size))
    return passage.facts("pyav", reason, [*doubts, *_length_doubts(path, header, passage)])


def read(path: Path, size: tuple[int, int]) -> Video:
    """Return a whole video in memory, decoded and resized as by `scan`. Raises InputError as `scan` does."""
    fitted: list[Tensor] = []

    def begin() -> Take:
        fitted.clear()
        return fitted.append

    facts = scan(path, Decoding(size, "auto", None), begin)
    return Video(**{field.name: getattr(facts, field.name) for field in fields(facts)}, frames=torch.cat(fitted))


def from_pictures(pictures: UInt8[ndarray, "f h w 3"], size: tuple[int, int], declared: int, take: Take) -> Facts:
    """Same as `scan` for pictures in memory; `declared` is the expected number of pictures."""
    take(fit(_tensor(pictures), size))
    return Facts(
        count=len(pictures),
        fps=0.0,
        steady=True,
        declared=declared,
        duration=0.0,
        repeated=_repeats(pictures) / len(pictures),
        sizes=(pictures.shape[1:3],),
        reader="none",
        reason="the pictures are not encoded",
        doubts=(),
    )


def frames(path: Path, size: tuple[int, int]) -> Generator[Shown]:
    """Yield the frames of `scan` in chunks, so that the caller may stop early. Raises InputError as `scan` does.

    PyAV reads them, because it holds few pictures in memory for any file.
    """
    with container.opened(path) as film:
        passage = _Passage(film.header, Decoding(size, "pyav", None), lambda frames: None)
        for chunk in gather(pyav_reader.pictures(film, []), size):
            yield from map(passage.shown, passage.frames(chunk))
        _length_doubts(path, film.header, passage)


class _Passage:
    """Passes the frames of one video on and gathers its metadata."""

    def __init__(self, header: Header, how: Decoding, take: Take) -> None:
        self._header, self._how, self._take = header, how, take
        self._clock = Clock(header.nominal, header.form)
        self._rate = None if how.fps is None else FixedRate(how.fps)
        self._before: list[ndarray] = []  # the last picture
        self._sizes: dict[tuple[int, int], None] = {}
        self._times: tuple[float, ...] = ()  # of the newest chunk
        self._count = self._repeats = 0
        self.decoded = 0  # number of pictures
        self.end = 0.0  # when the last picture ends, by the container's clock

    def take(self, chunks: Iterator[Chunk]) -> None:
        """Pass on the frames of all chunks."""
        for chunk in chunks:
            self._pass_on(self.frames(chunk))
        if self._rate is not None and self.decoded:
            self._pass_on(self._rate.finish(self._clock.after(self.end)))

    def frames(self, chunk: Chunk) -> Iterator[UInt8[Tensor, "f c h w"]]:
        """Yield the resized frames of a chunk; at a fixed rate, the frames whose time lies before the chunk's end."""
        pictures = chunk.pictures
        self._repeats += sum(map(_equal, self._before, pictures)) + _repeats(pictures)
        self._before = [pictures[-1].copy()]
        self._sizes[chunk.whole] = None
        self.decoded += len(pictures)
        self.end = chunk.end
        self._times = tuple(self._clock(time) for time in chunk.times)
        fitted = resize(_tensor(pictures), self._how.size)
        yield from [fitted] if self._rate is None else self._rate.take(fitted, self._times)

    def shown(self, frames: UInt8[Tensor, "f c h w"]) -> Shown:
        """Return the frames of the newest chunk with their times, if every picture is a frame."""
        return Shown(frames, self._times, self._clock.after(self.end))

    def _pass_on(self, parts: Iterator[Tensor]) -> None:
        for part in parts:
            self._count += len(part)
            self._take(part)

    def facts(self, reader: str, reason: str, doubts: list[str]) -> Facts:
        """Return the metadata of the whole video."""
        return Facts(
            count=self._count,
            fps=self._clock.fps or round(self._header.fps, 3),
            steady=self._clock.steady,
            declared=self._header.declared,
            duration=self._header.duration,
            repeated=self._repeats / self.decoded,
            sizes=tuple(self._sizes),
            reader=reader,
            reason=reason,
            doubts=tuple(doubts),
        )


def _examined(path: Path, reader: Reader) -> tuple[Header, decord_reader.Look | None, str]:
    """Return a file's header, decord's inspection of it (None if PyAV reads the file), and why this reader reads it."""
    with container.opened(path) as film:
        header = film.header
        if reader == "pyav":
            return header, None, "the setting reader"
        if decord_reader.library() is None:
            return header, None, "decord is not installed"
        if reader == "decord":
            misread, seen = decord_reader.faulty(film), decord_reader.look(film)
            return header, replace(seen, refusal=misread or seen.refusal), "the setting reader"
        if refused := decord_reader.refusal(film):
            return header, None, refused
        seen = decord_reader.look(film)
        if seen.refusal:
            return header, None, seen.refusal
        return header, seen, f"{header.codec} in {header.form.partition(',')[0]}"


def _length_doubts(path: Path, header: Header, passage: _Passage) -> list[str]:
    """Return what is doubtful about a video's length. Raises InputError if it has no pictures or is truncated."""
    count, end, stated = passage.decoded, passage.end, header.end
    if count == 0:
        raise InputError(f"{path} has no frames; copy it again or remove it")
    if lengths.is_truncated(path, header.missing):
        raise InputError(f"{path} {lengths.truncation(path, header.missing)}")
    doubts = []
    if header.missing:
        doubts.append(f"lacks the last {header.missing} bytes that its container states")
    enough = (1 - lengths.MOST_MISSING) * header.duration
    if stated is None and header.form in lengths.STATED and end < enough - header.nominal:
        stated = header.duration if container.last_moment(path) < enough else None
    if stated is not None:
        lacking, reason = stated - end, f"its pictures end at {end:.3g} s, but its container states {stated:.3g} s"
        if header.missing is None and lacking > lengths.MOST_MISSING * stated + header.nominal:
            raise InputError(f"{path} is truncated: {reason}; copy it again or remove it")
        if lacking > _LENGTH_TOLERANCE * stated + header.nominal:
            doubts.append(reason)
    return doubts


def _repeats(chunk: UInt8[ndarray, "f h w 3"]) -> int:
    """Return the number of pictures that equal the picture before them."""
    some = chunk.reshape(len(chunk), -1)[:, ::97]  # most unequal pictures differ in these few bytes already
    candidates = (some[1:] == some[:-1]).all(axis=1)
    return sum(_equal(chunk[index], chunk[index + 1]) for index in np.flatnonzero(candidates))


def _equal(one: UInt8[ndarray, "..."], other: UInt8[ndarray, "..."]) -> bool:
    return np.array_equal(one, other)  # neighbours may differ in size


def _tensor(chunk: UInt8[ndarray, "f h w 3"]) -> UInt8[Tensor, "f 3 h w"]:
    return torch.from_numpy(chunk).permute(0, 3, 1, 2)
