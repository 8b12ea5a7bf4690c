"""Pictures of several panels side by side, each with its name, and a bar that shows where the prediction begins."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from components.pictures import galleries

GAP: Final = 8  # pixels between panels
HEAD: Final = 26  # pixels, for the names
BAR: Final = 12  # pixels, for the bar
LEAST_WIDTH: Final = 96  # pixels of a panel, so that its name fits
PAUSE: Final = 1000  # milliseconds, of the last frame of an animation


@dataclass(frozen=True, slots=True)
class Panel:
    """A clip with its name; frames that are not present are dark."""

    name: str
    frames: UInt8[np.ndarray, "f c h w"]
    present: Bool[np.ndarray, "f"]


def picture(panels: Sequence[Panel], time: int, context: int, scale: int) -> Image.Image:
    """Draw frame `time` of all panels side by side, enlarged by the integer `scale` without smoothing.

    The first `context` frames of each panel are context, and have that name. From there on the bar below is bright.
    """
    count, _, height, width = panels[0].frames.shape
    step = max(width * scale, LEAST_WIDTH) + GAP
    page = Image.new("RGB", (len(panels) * step - GAP, HEAD + height * scale + BAR), galleries.DARK)
    pen = ImageDraw.Draw(page)
    for column, panel in enumerate(panels):
        name, colour = (panel.name, galleries.LIGHT) if time >= context else ("context", galleries.DIM)
        pen.text((column * step + 6, HEAD / 2), name, colour, galleries.font(14), anchor="lm")
        if panel.present[time]:
            page.paste(galleries.larger(panel.frames[time].transpose(1, 2, 0), scale), (column * step, HEAD))
    galleries.progress_bar(pen, page.height - BAR // 2 - 2, page.width, time, context, count)
    return page


def film(panels: Sequence[Panel], context: int, scale: int) -> UInt8[np.ndarray, "f 3 h w"]:
    """Draw all frames as `picture` does."""
    pages = [np.asarray(picture(panels, time, context, scale)) for time in range(len(panels[0].frames))]
    return np.ascontiguousarray(np.stack(pages).transpose(0, 3, 1, 2))


def animation(panels: Sequence[Panel], context: int, scale: int, fps: float) -> bytes:
    """Encode all frames as a looping, lossless WebP that pauses at its end."""
    first, *rest = [picture(panels, time, context, scale) for time in range(len(panels[0].frames))]
    durations = [round(1000 / fps)] * len(rest) + [PAUSE]
    file = io.BytesIO()
    options = {"lossless": True, "method": 0, "quality": 75}
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, **options)
    return file.getvalue()
