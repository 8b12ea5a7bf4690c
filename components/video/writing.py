"""Encode clips to files: H.264 in mp4, and GIF."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

QUALITY: Final = "12"  # H.264's constant rate factor: 0 is lossless, 51 the worst


def write(path: Path, clip: UInt8[Tensor, "f c h w"], fps: int) -> None:
    """Encode an RGB clip as H.264 in an mp4 file that any browser plays. Equal clips give equal bytes.

    The pixel format yuv420p needs even sizes, so the last row or column of an odd height or width is repeated. The file
    is written atomically.
    """
    even = functional.pad(clip.float(), (0, clip.shape[3] % 2, 0, clip.shape[2] % 2), mode="replicate").to(torch.uint8)
    options = {"fflags": "+bitexact", "movflags": "+faststart"}  # bit-exact: no version of the muxer, no date
    with _aside(path) as aside, av.open(str(aside), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = even.shape[-2:]
        stream.pix_fmt = "yuv420p"
        # mbtree is off because x264's macroblock tree reads uninitialised memory if a picture is only a few blocks wide
        stream.options = {"crf": QUALITY, "preset": "medium", "flags": "+bitexact", "mbtree": "0"}
        stream.codec_context.thread_count = 1  # the number of threads changes the bytes
        for picture in even.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: Path, clip: UInt8[Tensor, "f c h w"], fps: int) -> None:
    """Encode an RGB clip as a GIF that loops forever. All frames share one palette, so that still parts do not flicker.

    GIF counts time in hundredths of a second, and equal successive frames become one longer frame. The file is written
    atomically.
    """
    pictures = [Image.fromarray(picture) for picture in clip.permute(0, 2, 3, 1).contiguous().numpy()]
    strip = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    palette = strip.quantize(256, dither=Image.Dither.NONE)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    milliseconds = 10 * max(1, round(100 / fps))
    with _aside(path) as aside:
        first.save(aside, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Provide a temporary path; rename it to `path` on success and delete it on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
