"""Images of clips: context, truth, canvas, staticness, order, sample and error, as strips, sheets and animations."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from components.pictures.records import Gallery, Reconstructions

MAX_FRAMES: Final = 16  # maximum of predicted frames in a strip; of a longer clip, evenly spaced ones
MAX_CONTEXT_FRAMES: Final = 4  # maximum of context frames in a strip, the last ones
ERROR_RANGE: Final = 64  # error in grey levels at the bright end of the scale
STATIC_SCALE: Final = "cividis"
ORDER_SCALE: Final = "viridis"
ERROR_SCALE: Final = "inferno"
MILLISECONDS: Final = 140  # per frame of an animation
_PAUSE: Final = 1000  # milliseconds, of the last frame
_ENLARGED: Final = 3  # scale factor of an animation
_LOSSLESS: Final[dict[str, Any]] = {"lossless": True, "method": 0, "quality": 75}
_FRAME_GAP, _CONTEXT_GAP = 2, 10  # pixels between frames, and between context and prediction
DARK, LIGHT, DIM, ACCENT = (21, 25, 31), (232, 236, 241), (120, 130, 143), (86, 180, 233)


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of frames, empty where `present` is False. `low` and `high` label the ends of the colour scale."""

    name: str
    frames: UInt8[np.ndarray, "f h w 3"]
    present: Bool[np.ndarray, "f"]
    scale: str = ""
    low: str = ""
    high: str = ""


@dataclass(frozen=True, slots=True)
class Filmstrip:
    """Lanes of one clip. The columns show the frames with these `indices`; the first `context` columns are context."""

    name: str
    lanes: tuple[Lane, ...]
    indices: tuple[int, ...]
    context: int


def nearest(latents: int, frames: int) -> Int[np.ndarray, "f"]:
    """Return, for each of `frames` pixel frames, the index of its latent frame among `latents`.

    If `frames` is a multiple of `latents`, each latent frame has equally many pixel frames. Otherwise the VAE is
    causal: its first latent frame is a single pixel frame (17 frames, 9 latents: 0, 1 1, 2 2, ...).
    """
    frame = np.arange(frames)
    if frames % latents == 0:
        return frame * latents // frames
    return -(-frame * (latents - 1) // max(frames - 1, 1))


def filmstrip(
    gallery: Gallery, index: int, truth_frames: int | None = None, predicted_frames: int | None = None
) -> Filmstrip:
    """Return one clip of a gallery as lanes: context and truth, canvas, staticness, order, sample, error.

    `truth_frames` and `predicted_frames` limit the frames of the truth and of the prediction; None shows all of them.
    """
    truth, sample = gallery.truth[index], gallery.sample[index]
    context = gallery.context[index][-MAX_CONTEXT_FRAMES:]
    count = len(truth)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int))
    size = (truth.shape[-2], truth.shape[-1])
    before = np.full(len(context), False)
    real = np.concatenate([~before, chosen < (count if truth_frames is None else truth_frames)])
    predicted = np.concatenate([before, chosen < (count if predicted_frames is None else predicted_frames)])
    first = _lane("context | truth", np.concatenate([context, truth[chosen]]).transpose(0, 2, 3, 1), 0)
    lanes = [replace(first, name=first.name if real[len(context) :].any() else "context", present=real)]
    prediction_lanes: list[Lane] = []
    if gallery.canvas is not None:
        canvas = gallery.canvas[index]
        canvas = canvas[nearest(len(canvas), count)[chosen]]
        prediction_lanes.append(_lane("canvas", canvas.transpose(0, 2, 3, 1), len(context)))
        if gallery.staticness is not None:
            maps = gallery.staticness[index][nearest(gallery.staticness.shape[1], count)[chosen]]
            colour = _coloured(_enlarge(maps, size), STATIC_SCALE)
            prediction_lanes.append(_lane("staticness", colour, len(context), STATIC_SCALE, "moving", "static"))
    if gallery.order is not None:
        sets = max(int(gallery.order.max()), 1)
        maps = gallery.order[index][nearest(gallery.order.shape[1], count)[chosen]] / sets
        colour = _coloured(_enlarge(maps, size), ORDER_SCALE)
        prediction_lanes.append(_lane("order", colour, len(context), ORDER_SCALE, "first set", "last set"))
    prediction_lanes.append(_lane("sample", sample[chosen].transpose(0, 2, 3, 1), len(context)))
    lanes += [replace(lane, present=predicted) for lane in prediction_lanes]
    if (real & predicted).any():
        lanes.append(replace(_error(truth[chosen], sample[chosen], len(context)), present=real & predicted))
    length = gallery.context.shape[1]
    indices = (*range(length - len(context), length), *(int(length + frame) for frame in chosen))
    return Filmstrip(gallery.names[index], tuple(lanes), indices, len(context))


def reconstruction_filmstrip(clips: Reconstructions, index: int) -> Filmstrip:
    """Return a filmstrip with three lanes: the clip, its reconstruction by the VAE, and the error."""
    truth, reconstruction = clips.truth[index], clips.reconstruction[index]
    chosen = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), MAX_FRAMES + 1)).round().astype(int))
    lanes = (
        _lane("real", truth[chosen].transpose(0, 2, 3, 1), 0),
        _lane("reconstructed", reconstruction[chosen].transpose(0, 2, 3, 1), 0),
        _error(truth[chosen], reconstruction[chosen], 0),
    )
    return Filmstrip(clips.names[index], lanes, tuple(map(int, chosen)), 0)


def strip(lane: Lane, context: int) -> bytes:
    """Encode a lane as lossless WebP at the clip's resolution; gaps and missing frames are transparent."""
    canvas, left_edges = _ribbon(lane, context)
    for frame, present, left in zip(lane.frames, lane.present, left_edges, strict=True):
        if present:
            canvas[:, left : left + frame.shape[1], :3] = frame
            canvas[:, left : left + frame.shape[1], 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "WEBP", **_LOSSLESS)
    return file.getvalue()


def centres(film: Filmstrip) -> tuple[tuple[float, ...], float]:
    """Return the centre of each column of a strip and the width of the strip, in pixels."""
    canvas, left_edges = _ribbon(film.lanes[0], film.context)
    return tuple(left + film.lanes[0].frames.shape[2] / 2 for left in left_edges), float(canvas.shape[1])


def sheet(film: Filmstrip, scale: int | None = None) -> bytes:
    """Draw all lanes of a film into one labelled PNG, enlarged by `scale` without smoothing; None: to about 96 pixels.

    A line marks where the prediction begins.
    """
    ribbon, left_edges = _ribbon(film.lanes[0], film.context)
    height, width = ribbon.shape[:2]
    times = scale or max(1, round(96 / height))
    left, top = 150, 64
    step = height * times + 8
    page = Image.new("RGB", (left + width * times + 16, top + step * len(film.lanes) + 8), DARK)
    pen = ImageDraw.Draw(page)
    pen.text((16, 12), film.name, LIGHT, font(17))
    for column, (x, frame) in enumerate(zip(left_edges, film.indices, strict=True)):
        middle = left + (x + film.lanes[0].frames.shape[2] / 2) * times
        pen.text((middle, top - 8), str(frame), DIM if column < film.context else ACCENT, font(13), anchor="ms")
    if 0 < film.context < len(film.indices):
        border = left + (left_edges[film.context] - _CONTEXT_GAP / 2) * times
        pen.line((border, top - 22, border, page.height - 8), ACCENT, 2)
        pen.text((border + 6, top - 30), "predicted from here", ACCENT, font(12), anchor="ls")
    for row, lane in enumerate(film.lanes):
        y = top + row * step
        pen.text((16, y + height * times / 2), lane.name, LIGHT, font(14), anchor="lm")
        if lane.scale:
            bar = _coloured(np.linspace(0, 1, 56)[None].repeat(8, 0), lane.scale)
            page.paste(Image.fromarray(bar), (16, int(y + height * times / 2) + 14))
            pen.text((16, y + height * times / 2 + 26), f"{lane.low} to {lane.high}", DIM, font(11), anchor="lt")
        for frame, present, x in zip(lane.frames, lane.present, left_edges, strict=True):
            if present:
                page.paste(larger(frame, times), (left + x * times, y))
    return _png(page)


def animation(gallery: Gallery, index: int) -> bytes:
    """Animate truth, canvas and sample side by side as a looping, lossless WebP with a progress bar."""
    context, truth, sample = gallery.context[index], gallery.truth[index], gallery.sample[index]
    parts = [("truth", truth), ("sample", sample)]
    if gallery.canvas is not None:
        canvas = gallery.canvas[index]
        parts.insert(1, ("canvas", canvas[nearest(len(canvas), len(truth))]))
    films = [np.concatenate([context, part]).transpose(0, 2, 3, 1) for _, part in parts]
    total = len(context) + len(truth)
    pictures = [
        _animation_frame([name for name, _ in parts], [frames[time] for frames in films], time, len(context), total)
        for time in range(total)
    ]
    file = io.BytesIO()
    durations = [MILLISECONDS] * (total - 1) + [_PAUSE]
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, **_LOSSLESS)
    return file.getvalue()


def png(frame: UInt8[np.ndarray, "c h w"]) -> bytes:
    """Encode one frame as PNG without scaling."""
    return _png(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))))


def overlay(
    frames: UInt8[np.ndarray, "f c h w"], maps: Float[np.ndarray, "f i o"], scale: str
) -> UInt8[np.ndarray, "f c h w"]:
    """Blend frames with half-transparent colour maps of `maps`, whose values in [0, 1] lie on the token grid."""
    colour = _coloured(_enlarge(maps, (frames.shape[2], frames.shape[3])), scale).transpose(0, 3, 1, 2)
    return ((frames.astype(np.uint16) + colour) // 2).astype(np.uint8)


def progress_bar(pen: ImageDraw.ImageDraw, y: int, width: int, time: int, context: int, total: int) -> None:
    """Draw the bar of frame `time` of `total`: dim for the first `context` frames, bright from the prediction on."""
    marks = (width - 1) * np.array([0, context, time + 1]) / total
    pen.rectangle((0, y, width, y + 3), (44, 52, 62))
    pen.rectangle((0, y, min(marks[2], marks[1]), y + 3), DIM)
    if time >= context:
        pen.rectangle((marks[1], y, marks[2], y + 3), ACCENT)


def colours(scale: str, count: int = 9) -> tuple[str, ...]:
    """Return `count` CSS colours of a colour scale, from its low to its high end."""
    samples = _coloured(np.linspace(0, 1, count)[None], scale)[0]
    return tuple(f"rgb({red} {green} {blue})" for red, green, blue in samples)


def _animation_frame(
    names: Sequence[str], frames: Sequence[UInt8[np.ndarray, "h w 3"]], time: int, context: int, total: int
) -> Image.Image:
    height, width = frames[0].shape[0] * _ENLARGED, frames[0].shape[1] * _ENLARGED
    gap, head, foot = 8, 26, 12
    page = Image.new("RGB", (len(frames) * (width + gap) - gap, head + height + foot), DARK)
    pen = ImageDraw.Draw(page)
    for column, (name, frame) in enumerate(zip(names, frames, strict=True)):
        left = column * (width + gap)
        predicted = time >= context or column == 0
        pen.text(
            (left + 6, head / 2),
            name if predicted else "context",
            LIGHT if predicted else DIM,
            font(15),
            anchor="lm",
        )
        page.paste(larger(frame, _ENLARGED), (left, head))
    progress_bar(pen, head + height + foot // 2, page.width, time, context, total)
    return page


def _lane(
    name: str, frames: UInt8[np.ndarray, "f h w 3"], before: int, scale: str = "", low: str = "", high: str = ""
) -> Lane:
    """Return a lane that starts with `before` empty columns."""
    empty = np.zeros((before, *frames.shape[1:]), np.uint8)
    present = np.arange(before + len(frames)) >= before
    return Lane(name, np.concatenate([empty, frames]), present, scale, low, high)


def _error(truth: UInt8[np.ndarray, "f c h w"], other: UInt8[np.ndarray, "f c h w"], before: int) -> Lane:
    distance = np.abs(truth.astype(np.float32) - other.astype(np.float32)).mean(1) / ERROR_RANGE
    return _lane("error", _coloured(distance, ERROR_SCALE), before, ERROR_SCALE, "0", f"{ERROR_RANGE} levels")


def _ribbon(lane: Lane, context: int) -> tuple[UInt8[np.ndarray, "h w 4"], tuple[int, ...]]:
    """Return a transparent strip for a lane and the x position of each frame, in pixels."""
    count, height, width = lane.frames.shape[:3]
    gap = _CONTEXT_GAP - _FRAME_GAP if 0 < context < count else 0
    left_edges = tuple(column * (width + _FRAME_GAP) + (gap if column >= context else 0) for column in range(count))
    return np.zeros((height, left_edges[-1] + width, 4), np.uint8), left_edges


def _enlarge(maps: Float[np.ndarray, "f i o"], size: tuple[int, int]) -> Float[np.ndarray, "f h w"]:
    """Scale maps on the token grid to frame size (h, w), nearest neighbour."""
    rows, columns = (np.arange(wide) * grid // wide for wide, grid in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows][:, :, columns]


def _coloured(values: Float[np.ndarray, "..."], scale: str) -> UInt8[np.ndarray, "... 3"]:
    """Map values to colours, clipped to [0, 1]."""
    return matplotlib.colormaps[scale](np.clip(values, 0, 1), bytes=True)[..., :3]


def larger(frame: UInt8[np.ndarray, "h w 3"], times: int) -> Image.Image:
    """Return a frame enlarged by an integer factor without smoothing."""
    return Image.fromarray(frame.repeat(times, 0).repeat(times, 1))


def font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that ships with matplotlib: it is the same on every machine and covers more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=False)
    return file.getvalue()
