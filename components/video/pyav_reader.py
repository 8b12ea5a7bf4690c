"""Decode all pictures of a video file with PyAV on one thread; damaged pictures raise an error."""

import contextlib
import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from numpy import ndarray

from components.foundation.errors import InputError
from components.video import container, lengths
from components.video.container import Film
from components.video.ffmpeg_reports import Errors
from components.video.pictures import STREAMS, Picture

# codecs whose pictures before the first key frame are wrong or missing
PREDICTED: Final = frozenset({"h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "vc1"})
MOST_REORDERED: Final = 16  # packets between a packet and the one whose picture is shown before or after its own
# what FFmpeg reports of H.264 that refers to pictures from before the beginning of the file
_DISMISSING: Final = ("mmco: unref short failure", "Missing reference picture")
Matrix = tuple[int, int, int, int]  # a, b, c, d of a display matrix
_FAULTS: Final = (av.FFmpegError, OSError, ValueError)


def pictures(film: Film, doubts: list[str]) -> Iterator[Picture]:
    """Yield all pictures in order, upright; append the reasons why the file is suspicious to `doubts`.

    Raises InputError if a picture is damaged. Damage is allowed before the first decodable picture and, in a file that
    may be truncated, in the last picture.
    """
    yield from converted(film, _frames(film, doubts))


def converted(film: Film, frames: Iterable[Any]) -> Iterator[Picture]:
    """Yield decoded frames of a video as upright RGB pictures. Raises InputError if a frame cannot be converted."""
    converter = VideoReformatter()  # shared: `frame.reformat` would set up a converter for every frame
    matrix, pixel = None, film.header.pixel
    for number, frame in enumerate(frames):
        if number == 0:
            matrix = display_matrix(frame)
            pixel = 1 / pixel if matrix and transposes(matrix) else pixel
        # on one thread: starting threads takes longer than the conversion, except for huge pictures
        try:
            plane = converter.reformat(frame, format="rgb24", threads=1).planes[0]
        except _FAULTS:
            raise _damaged(film) from None
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        pixels = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        tick = float(frame.time_base) if frame.time_base else math.nan
        stamp = container.stamp(film.header, frame.pts, frame.dts)
        begin = math.nan if stamp is None else stamp * tick
        yield Picture(
            pixels if matrix is None else upright(pixels, matrix),
            begin,
            begin + (frame.duration * tick if frame.duration else film.header.nominal),
            pixel,
        )


def upright(pixels: UInt8[ndarray, "h w 3"], matrix: Matrix) -> UInt8[ndarray, "_ _ 3"]:
    """Return a view of the picture as players show it: rotated by multiples of 90 degrees and mirrored.

    The display matrix (a, b, c, d) moves a point (x, y) of the picture to (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if transposes(matrix):
        return pixels.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def transposes(matrix: Matrix) -> bool:
    """Return whether a display matrix swaps rows and columns."""
    a, b, c, d = map(abs, matrix)
    return b + c > a + d


def display_matrix(frame: Any) -> Matrix | None:
    """Return the display matrix of a frame; None if it has none or the identity."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = struct.unpack("5i", bytes(data)[:20])
    return (a, b, c, d) if transposes((a, b, c, d)) or a < 0 or d < 0 else None


class DecodingError(Exception):
    """A packet of a numbered sequence cannot be decoded."""


def numbered(
    film: Film, packets: Iterable[tuple[int, Any]], expendable: Callable[[int], bool]
) -> Iterator[tuple[int | None, Any]]:
    """Decode numbered packets; yield the frames in presentation order, each with the number of its packet.

    The packets may begin anywhere in the file. The number is also the frame's time stamp. Raises DecodingError if a
    packet cannot be decoded, unless `expendable(number)` is true.
    """
    context = _strict(film)
    for number, packet in packets:
        packet.pts = number  # decoders pass the time stamp on to the frame
        try:
            yield from ((frame.pts, frame) for frame in packet.decode())
        except _FAULTS:
            if not expendable(number):
                raise DecodingError from None
    try:
        yield from ((frame.pts, frame) for frame in context.decode(None))
    except _FAULTS:
        raise DecodingError from None


def _strict(film: Film) -> Any:
    """Return the film's decoder, set to one thread, and to raise an error instead of returning a corrupt picture."""
    context = film.stream.codec_context
    context.thread_count = 1
    context.options = {"err_detect": "explode"}
    return context


def _frames(film: Film, doubts: list[str]) -> Iterator[Any]:
    """Yield all decoded frames of the shown stream."""
    context = _strict(film)
    waits = context.name in PREDICTED  # for a key frame
    skipped, first, last, lost, fed, errors = 0, None, False, 0, 0, Errors()
    packets, failed = film.container.demux(film.stream), None
    while True:
        try:
            packet = errors.during(next, packets, None)
        except _FAULTS:
            _accept_end(film, doubts, known=last)
            yield from _flushed(context)
            return
        if packet is None:
            break
        lost += packet.is_corrupt
        if last and packet.size:
            raise _damaged(film)
        if waits and packet.size:
            if not packet.is_keyframe:
                skipped += 1
                continue
            waits, first = False, packet.pts
        fed += 1
        try:
            frames = errors.during(packet.decode)
        except _FAULTS:
            if _precedes(packet.pts, first):
                skipped += 1  # shown before the first key frame, which is decoded before
                continue
            if context.name == "h264" and fed <= MOST_REORDERED and packet.pts in _dismissing(film.path):
                continue
            _accept_end(film, doubts, known=last)
            last, failed = True, packet.pts
            continue
        # the picture of the last packet, if that is damaged, comes out nevertheless
        yield from (frame for frame in frames if not last or not (frame.is_corrupt or _equals(frame.pts, failed)))
    if waits and skipped:
        raise InputError(
            f"{film.path} holds no key frame, from which decoding could start; export it again or remove it"
        )
    if lost:
        places = f"{lost} {'place' if lost == 1 else 'places'}, where packets of its container are lost"
        joined = " or streams are joined" if film.header.form in STREAMS else ""
        doubts.append(f"{'may lack' if joined else 'lacks'} data at {places}{joined}")
    if skipped:
        doubts.append(f"begins in the middle of a group of pictures: its first {skipped} pictures cannot be decoded")
    if errors.count and not doubts:
        count = f"{errors.count} {'error' if errors.count == 1 else 'errors'}"
        doubts.append(f"is damaged: FFmpeg reports {count}, of which the last is {errors.last!r}")


def _dismissing(path: Path) -> set[int]:
    """Return the times of the first H.264 packets whose only fault is a reference to pictures before the file begins.

    A strict decoder refuses such packets, although their pictures are complete. Only FFmpeg's messages distinguish them
    from damaged packets.
    """
    times, level, skips = set[int](), av.logging.get_level(), av.logging.get_skip_repeated()
    try:
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # or else of equal messages of two packets, one is lost
        with container.opened(path) as film, av.logging.Capture() as messages:
            film.stream.codec_context.thread_count = 1
            packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, film.container.demux(film.stream))
            for packet in itertools.islice(packets, MOST_REORDERED):
                messages.clear()
                with contextlib.suppress(*_FAULTS):
                    packet.decode()
                if messages and all(text.startswith(_DISMISSING) for _, _, text in messages):
                    times.add(packet.pts)
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    return times


def _equals(time: int | None, other: int | None) -> bool:
    return time is not None and time == other


def _precedes(time: int | None, first: int | None) -> bool:
    return time is not None and first is not None and time < first


def _flushed(context: Any) -> list[Any]:
    """Return the frames that the decoder holds back."""
    try:
        return list(context.decode(None))
    except _FAULTS:
        return []


def _accept_end(film: Film, doubts: list[str], known: bool) -> None:
    """Accept that the last picture cannot be decoded: add a doubt. Raises InputError if no bytes are missing."""
    if film.header.missing == 0:
        raise _damaged(film)
    if not known:
        doubts.append("ends in the middle of a picture")


def _damaged(film: Film) -> InputError:
    if lengths.is_truncated(film.path, film.header.missing):
        return InputError(f"{film.path} {lengths.truncation(film.path, film.header.missing)}")
    return InputError(f"{film.path} is damaged and cannot be decoded; copy it again or remove it")
