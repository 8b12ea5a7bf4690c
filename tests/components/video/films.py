"""Small videos of every kind, made with PyAV."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from components.video import video
from components.video.video import Decoding, Facts

SMOOTH = (64, 128)  # height and width that decord reads


def film(frames: int = 24, height: int = 48, width: int = 64) -> UInt8[Tensor, "f c h w"]:
    """A square that travels over a gradient: every frame another picture, and smooth enough for H.264."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ground = torch.stack([60 + rows, 90 + columns, 200 - rows - columns]).clamp(0, 255).to(torch.uint8)
    clip = ground.repeat(frames, 1, 1, 1)
    for frame in range(frames):
        left = (2 * frame) % (width - 12)
        clip[frame, :, 10:22, left : left + 12] = torch.tensor([220, 40, 40], dtype=torch.uint8)[:, None, None]
    return clip


def encode(
    path: Path,
    codec: str,
    form: str,
    clip: UInt8[Tensor, "f c h w"],
    pixels: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    rate: int = 25,
    prepare: Callable[[Any], object] = lambda stream: None,
    **options: str,
) -> None:
    """A clip in any codec and container, at this rate or at these times; `prepare` may change the stream."""
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = clip.shape[-2:]
        stream.pix_fmt = pixels
        prepare(stream)
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(clip.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def copied(source: Path, path: Path, keep: Callable[[int, Any], bool], shift: int = 0, **options: str) -> None:
    """Copy the packets that `keep` (number, packet) wants to another file, `shift` frames of 1/25 s earlier."""
    with av.open(str(source)) as whole, av.open(str(path), "w", options=options) as cut:
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        ticks = shift * int(1 / (25 * stream.time_base))
        for number, packet in enumerate(whole.demux(stream)):
            if packet.dts is not None and keep(number, packet):
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, copy
                cut.mux(packet)


def truth(path: Path) -> UInt8[Tensor, "f c h w"]:
    """Every frame, by a plain loop."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def scanned(path: Path, size: tuple[int, int], reader: str = "auto", fps: float | None = None) -> tuple[Facts, Tensor]:
    """All frames of a file, and its metadata."""
    parts: list[Tensor] = []

    def begin() -> video.Take:
        parts.clear()
        return parts.append

    return video.scan(path, Decoding(size, reader, fps), begin), torch.cat(parts)


def sound(container: Any, seconds: float) -> None:
    """Add a silent stream to a container that is being written."""
    stream = container.add_stream("aac", rate=16000)
    for index in range(round(seconds * 16000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, index * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def psnr(one: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (one.double() - other.double()).square().mean()))


def packets(codec: str, size: tuple[int, int], pixels: str, frames: int, gop: int) -> list[av.Packet]:
    """A film as an encoder gives it, for a container that another encoder fills too."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt = *size, pixels
    context.time_base, context.framerate, context.gop_size = Fraction(1, 25), Fraction(25), gop
    made: list[av.Packet] = []
    for number, picture in enumerate(film(frames, *size).permute(0, 2, 3, 1).contiguous().numpy()):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        made += context.encode(frame)
    return made + context.encode()
