"""Open video files: select the video stream that players show, and read the metadata of the container."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
from av.codec.context import Flags

from components.foundation.errors import InputError
from components.video import lengths

_UNTIMED: Final = frozenset({"mpegvideo"})  # raw streams; FFmpeg gives their first pictures wrong times
_EMPTY: Final = 8  # bytes of a packet of MPEG-4 without a picture, at most
TEXT_FORMATS: Final = frozenset({"tty"})  # FFmpeg renders text files as pictures


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata of the shown video stream, as the container states it. Times are in seconds."""

    form: str  # FFmpeg's name of the container format
    codec: str  # FFmpeg's name of the decoder
    streams: int  # number of video streams, cover pictures apart
    height: int  # coded
    width: int
    pixel: float  # width of a coded pixel relative to its height
    fps: float  # average frames per second; 0 if unknown
    nominal: float  # seconds from one frame to the next, if time stamps do not tell
    declared: int  # number of frames; 0 if unknown
    duration: float  # of the video stream, or else of the container; 0 if unknown
    end: float | None  # where the video stream itself ends; None if the container does not state it
    missing: int | None  # bytes that the container states beyond the end of the file; None if it states no size

    @property
    def size(self) -> int:
        """Approximate size in bytes of all decoded pictures."""
        return round(3 * self.height * self.width * (self.declared or self.duration * self.fps))


@dataclass(frozen=True, slots=True)
class Film:
    """An opened video file; `container` and `stream` are PyAV's."""

    path: Path
    container: Any
    stream: Any
    header: Header


@contextmanager
def opened(path: Path) -> Iterator[Film]:
    """Open a video file. Raises InputError if it is missing, empty, not a video or has no video stream."""
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        if not path.is_file():
            raise InputError(f"{path} is not a file; name a video file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy it again or remove it")
        container = av.open(str(path))
    except PermissionError:
        raise InputError(f"{path} cannot be read for lack of permission; change its permissions") from None
    except (av.FFmpegError, OSError, ValueError):
        raise InputError(f"{path} {_unreadable(path)}") from None
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if container.format.name in TEXT_FORMATS or not len(container.streams):
            raise InputError(f"{path} is not a video; remove it")
        if not streams:
            raise InputError(f"{path} has no video stream; remove it")
        shown = next((stream for stream in streams if stream.disposition & stream.disposition.default), streams[0])
        if shown.codec_context is None:  # a damaged header may not name the codec
            raise InputError(f"{path} is damaged or in an unknown codec; copy it again or remove it")
        shown.codec_context.flags |= Flags.unaligned  # or else a crop at the left is ignored
        yield Film(path, container, shown, _header(path, container, shown, len(streams)))


def _header(path: Path, container: Any, stream: Any, streams: int) -> Header:
    form, context = container.format.name, stream.codec_context
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    usual = float(stream.guessed_rate or stream.average_rate or 0)
    return Header(
        form=form,
        codec=context.name,
        streams=streams,
        height=context.height,
        width=context.width,
        pixel=float(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1),
        fps=float(stream.average_rate or stream.guessed_rate or 0),
        nominal=1 / usual if usual else 0.04,
        declared=stream.frames,
        duration=max(0.0, seconds),
        end=_end(form, stream),
        missing=lengths.missing_bytes(path, form),
    )


def _end(form: str, stream: Any) -> float | None:
    """Return the end of the video stream in seconds, as the container states it; the sound may be longer."""
    if form in (lengths.MOV, lengths.AVI, lengths.MXF) and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if form == lengths.MATROSKA:
        for name, text in stream.metadata.items():
            if name.upper().startswith("DURATION"):
                try:
                    hours, minutes, seconds = text.split(":")
                    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
                except ValueError:
                    return None
    return None


def _is_cover(stream: Any) -> bool:
    """Return whether a stream is the cover picture of an audio file."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _unreadable(path: Path) -> str:
    """Return why FFmpeg cannot open a file, by its first bytes."""
    if lengths.begins_like_a_video(path):
        return "is a truncated or damaged video; copy it again or remove it"
    return "is not a video; remove it"


def may_be_empty(codec: str, packet: Any) -> bool:
    """Return whether a packet may hold no picture: an MPEG-4 packet of a few bytes repeats the previous picture."""
    return codec == "mpeg4" and packet.size <= _EMPTY


def packet_times(packet: Any) -> tuple[int | None, int | None, int]:
    """Return the presentation time, the decoding time and the duration of a packet, in ticks of its stream."""
    return packet.pts, packet.dts, packet.duration or 0


def stamp(header: Header, pts: int | None, dts: int | None) -> int | None:
    """Return the time of a packet or frame that tells when its picture is shown; None if there is none."""
    if header.form in _UNTIMED:
        return None
    return dts if header.form == lengths.AVI else pts  # AVI has no presentation times


def picture_times(film: Film, packets: Sequence[tuple[int | None, int | None, int]]) -> tuple[tuple[float, ...], float]:
    """Return when each picture is shown and when the last one ends, in seconds.

    All times are NaN if a packet has no time.
    """
    shown = sorted((time, packet[2]) for packet in packets if (time := stamp(film.header, *packet[:2])) is not None)
    if not shown or len(shown) < len(packets):
        return (math.nan,) * len(packets), math.nan
    tick = float(film.stream.time_base)
    last, duration = shown[-1]
    return tuple(time * tick for time, _ in shown), last * tick + (duration * tick or film.header.nominal)


def last_moment(path: Path) -> float:
    """Return the end of the last packet of any stream in seconds; NaN if the file cannot be read to its end."""
    latest = 0.0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    latest = max(latest, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except (av.FFmpegError, OSError, ValueError):
        return math.nan
    return latest
