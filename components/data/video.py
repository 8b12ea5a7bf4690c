"""Video files to clips and back: the only door to PyAV and to Pillow's GIF writer.

A file is decoded once, from its first frame to its last, on one thread, and no reader outlives the call: one that
crosses a fork hangs. The pictures are those of decord to the last bit (a test compares them), where decord reads a
file at all and reads it right: it knows no AV1 and no GIF, shows what an edit list hides, stretches pictures whose size
changes, reads ahead without an end, and takes longer.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from components.errors import InputError

# endings, in lower case, of the files that are looked for in a folder of videos
SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".3gp", ".gif"}
)
CHUNK_BYTES: Final = 2 * 2**20  # of decoded pictures held at a time: what is in the cache is resized faster
CHUNK_FRAMES: Final = 64
TEXT_FORMATS: Final = frozenset({"tty"})  # FFmpeg draws text files as pictures
LEAST_SHARE: Final = 0.9  # of the frames that a container promises; fewer, and the file has been cut off
QUALITY: Final = "12"  # H.264's constant rate factor: 0 is lossless, 51 the worst


@dataclass(frozen=True, slots=True)
class Facts:
    """What the container of a video says, and what was seen of its frames."""

    count: int  # frames that were read
    fps: float  # frames a second, on average; 0 where the file does not say
    declared: int  # frames that the container announces; 0 where it does not say
    duration: float  # seconds that the container announces; 0 where it does not say
    repeated: float  # share of frames that equal the one before them bit for bit, as decoded
    sizes: tuple[tuple[int, int], ...]  # height, width in pixels of its pictures, in the order in which they come


@dataclass(frozen=True, slots=True)
class Video(Facts):
    """A whole video file in memory."""

    frames: UInt8[Tensor, "f c h w"]  # RGB


Take = Callable[[UInt8[Tensor, "f c h w"]], None]  # what is done with some frames of a video, in their order


@dataclass(frozen=True, slots=True)
class _Header:
    fps: float
    declared: int
    duration: float

    @property
    def promised(self) -> float:
        """Frames to expect; an edit list may show fewer than the container holds."""
        shown = self.duration * self.fps
        return float(min(self.declared or shown, shown or self.declared))


def scan(path: Path, size: tuple[int, int], take: Take) -> Facts:
    """Hands over all frames of a video file in order, a few at a time, so that it may be of any length.

    Each frame is cropped and resized to `size` (height, width) in pixels by `fit`. Raises InputError for a file that is
    missing, empty, no video, sound only, damaged, cut off or without frames; for the last three after some frames.
    """
    with _opened(path) as (header, chunks):
        count = repeats = 0
        sizes: dict[tuple[int, int], None] = {}
        before: list[ndarray] = []
        for chunk in chunks:
            repeats += sum(map(_equal, before, chunk)) + _repeats(chunk)
            before = [chunk[-1]]
            count += len(chunk)
            sizes[chunk.shape[1:3]] = None
            take(fit(_tensor(chunk), size))
    return Facts(count, header.fps, header.declared, header.duration, repeats / count, tuple(sizes))


def read(path: Path, size: tuple[int, int]) -> Video:
    """The same frames at once, for videos that memory holds; raises as `scan` does."""
    fitted: list[Tensor] = []
    facts = scan(path, size, fitted.append)
    return Video(**{field.name: getattr(facts, field.name) for field in fields(facts)}, frames=torch.cat(fitted))


def from_pictures(pictures: UInt8[ndarray, "f h w 3"], size: tuple[int, int], declared: int, take: Take) -> Facts:
    """Pictures that are no file as a video of `declared` frames, handed over as `scan` does."""
    take(fit(_tensor(pictures), size))
    return Facts(len(pictures), 0.0, declared, 0.0, _repeats(pictures) / len(pictures), (pictures.shape[1:3],))


def frames(path: Path, size: tuple[int, int]) -> Iterator[UInt8[Tensor, "f c h w"]]:
    """The same frames a few at a time, for one who may stop before the end; raises as `scan` does."""
    with _opened(path) as (_, chunks):
        for chunk in chunks:
            yield fit(_tensor(chunk), size)


def fit(clip: UInt8[Tensor, "f c h w"], size: tuple[int, int]) -> UInt8[Tensor, "f c ..."]:
    """The middle of each frame that has the shape of `size` (height, width), scaled to it: bilinear, antialiased.

    Frames of the right size stay as they are, bit for bit; a row or column too many, which is how `write` makes a size
    even, is cut off.
    """
    height, width = clip.shape[-2:]
    if not (0 <= height - size[0] <= 1 and 0 <= width - size[1] <= 1):
        scale = max(size[0] / height, size[1] / width)
        covered = max(1, min(height, round(size[0] / scale))), max(1, min(width, round(size[1] / scale)))
        # cropped first, so that nothing is scaled to be thrown away; in bytes, which is twelve times as fast as in
        # floats and differs by one grey level at most
        clip = functional.interpolate(_middle(clip, covered), size, mode="bilinear", antialias=True)
    return _middle(clip, size).contiguous()


def _middle(clip: UInt8[Tensor, "f c h w"], size: tuple[int, int]) -> UInt8[Tensor, "f c ..."]:
    top, left = (clip.shape[-2] - size[0]) // 2, (clip.shape[-1] - size[1]) // 2
    return clip[..., top : top + size[0], left : left + size[1]]


def write(path: Path, clip: UInt8[Tensor, "f c h w"], fps: int) -> None:
    """An RGB clip as H.264 in an mp4 file that any browser plays; the same clip gives the same bytes.

    H.264 halves the resolution of its colours, so an odd height or width gets its last row or column twice. The file is
    written aside and renamed: it is whole or not there.
    """
    even = functional.pad(clip.float(), (0, clip.shape[3] % 2, 0, clip.shape[2] % 2), mode="replicate").to(torch.uint8)
    options = {"fflags": "+bitexact", "movflags": "+faststart"}  # bit-exact: no version of the muxer, no date
    with _aside(path) as aside, av.open(str(aside), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = even.shape[-2:]
        stream.pix_fmt = "yuv420p"
        # x264's macroblock tree reads memory that it has not written when a picture is few blocks wide
        stream.options = {"crf": QUALITY, "preset": "medium", "flags": "+bitexact", "mbtree": "0"}
        stream.codec_context.thread_count = 1  # the number of threads changes the bytes
        for picture in even.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: Path, clip: UInt8[Tensor, "f c h w"], fps: int) -> None:
    """An RGB clip as a GIF that loops for ever, one palette for all frames so that nothing still flickers.

    GIF counts time in hundredths of a second, and equal neighbours become one longer frame.
    """
    pictures = [Image.fromarray(picture) for picture in clip.permute(0, 2, 3, 1).contiguous().numpy()]
    film = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    palette = film.quantize(256, dither=Image.Dither.NONE)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    milliseconds = 10 * max(1, round(100 / fps))
    with _aside(path) as aside:
        first.save(aside, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Another name to write under, which becomes `path` when all has gone well and disappears when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Header, Iterator[UInt8[ndarray, "f h w 3"]]]]:
    """What the container says, and the pictures; raises InputError for what is no video."""
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise InputError(f"{path} is not a file; name a video file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again or remove it")
    try:
        container = av.open(str(path))
    except PermissionError:
        raise InputError(f"{path} may not be read; change its permissions") from None
    except (av.FFmpegError, OSError, ValueError):
        raise InputError(f"{path} {_unreadable(path)}") from None
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if container.format.name in TEXT_FORMATS or not len(container.streams):
            raise InputError(f"{path} is not a video; remove it")
        if not streams:
            raise InputError(f"{path} holds no pictures, only sound; remove it")
        if streams[0].codec_context is None:  # damage can hide which codec it is
            raise InputError(f"{path} is damaged or in an unknown codec; copy it again or remove it")
        header = _header(container, streams[0])
        yield header, _whole(path, header, _chunks(path, container, streams[0]))


def _header(container: Any, stream: Any) -> _Header:
    seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / av.time_base
    rate = stream.average_rate or stream.guessed_rate or 0
    return _Header(fps=float(rate), declared=stream.frames, duration=max(0.0, float(seconds)))


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the still picture that goes with a piece of music."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _unreadable(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3" or (start[:4], start[8:]) == (b"RIFF", b"AVI "):
        return "is a video that was cut off or damaged; copy it again or remove it"
    return "is not a video; remove it"


def _whole(path: Path, header: _Header, chunks: Iterator[ndarray]) -> Iterator[UInt8[ndarray, "f h w 3"]]:
    """The same chunks; raises InputError after the last one unless all promised frames have come."""
    count = 0
    for chunk in chunks:
        count += len(chunk)
        yield chunk
    if count == 0:
        raise InputError(f"{path} has no frames; copy it again or remove it")
    if count < LEAST_SHARE * header.promised - 1:
        raise InputError(
            f"{path} was cut off after {count} of {header.promised:.0f} frames; copy it again or remove it"
        )


def _chunks(path: Path, container: Any, stream: Any) -> Iterator[UInt8[ndarray, "f h w 3"]]:
    """All pictures in order, a few of equal size at a time; raises InputError where they cannot be decoded."""
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}  # an error rather than a smeared picture
    converter = VideoReformatter()  # one for all: a frame's own would be set up anew for each
    pictures = container.decode(stream)
    held, count = np.empty((0, 0, 0, 3), np.uint8), 0
    while True:
        try:
            picture = next(pictures, None)
            # on one thread: for a picture that is not huge, starting others takes longer than the work
            plane = None if picture is None else converter.reformat(picture, format="rgb24", threads=1).planes[0]
        except (av.FFmpegError, OSError, ValueError):
            raise InputError(f"{path} is damaged and cannot be decoded; copy it again or remove it") from None
        shape = (0, 0) if plane is None else (plane.height, plane.width)
        if count and (count == len(held) or held.shape[1:3] != shape):
            yield held[:count]
            count = 0
        if plane is None:
            return
        if not count:
            most = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * shape[0] * shape[1])))
            held = np.empty((most, *shape, 3), np.uint8)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(shape[0], plane.line_size)
        held[count] = rows[:, : 3 * shape[1]].reshape(*shape, 3)
        count += 1


def _repeats(chunk: UInt8[ndarray, "f h w 3"]) -> int:
    """How many pictures equal the one before them."""
    some = chunk[:, ::16]  # most pictures differ in these few rows
    alike = (some[1:] == some[:-1]).all(axis=(1, 2, 3))
    return sum(_equal(chunk[index], chunk[index + 1]) for index in np.flatnonzero(alike))


def _equal(one: UInt8[ndarray, "..."], other: UInt8[ndarray, "..."]) -> bool:
    return np.array_equal(one, other)  # neighbours may differ in size


def _tensor(chunk: UInt8[ndarray, "f h w 3"]) -> UInt8[Tensor, "f 3 h w"]:
    return torch.from_numpy(chunk).permute(0, 3, 1, 2)
