"""Clips to look at: what was given, what was true, what was predicted and how, frame beside frame and in motion."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from components.reporting.results import Gallery, Reconstructions

SHOWN: Final = 16  # predicted frames side by side at most, spread evenly over a longer clip
GIVEN: Final = 4  # context frames side by side at most: the last
ERROR_RANGE: Final = 64  # grey levels of error at the bright end
STATIC_SCALE: Final = "cividis"
ORDER_SCALE: Final = "viridis"
ERROR_SCALE: Final = "inferno"
MILLISECONDS: Final = 140  # a frame of an animation
_PAUSE: Final = 1000  # milliseconds at its end
_ENLARGED: Final = 3  # pixels of an animation for one of the clip
_LOSSLESS: Final[dict[str, Any]] = {"lossless": True, "method": 0, "quality": 75}
_SPACE, _TURN = 2, 10  # pixels between frames, and between context and prediction
_DARK, _LIGHT, _DIM, _ACCENT = (21, 25, 31), (232, 236, 241), (120, 130, 143), (86, 180, 233)


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of frames, with nothing where `present` is false; `low` and `high` name the ends of a colour scale."""

    name: str
    frames: UInt8[np.ndarray, "f h w 3"]
    present: Bool[np.ndarray, "f"]
    scale: str = ""
    low: str = ""
    high: str = ""


@dataclass(frozen=True, slots=True)
class Film:
    """Lanes of one clip, column under column; `numbers` are places in the clip, the first `given` columns context."""

    name: str
    lanes: tuple[Lane, ...]
    numbers: tuple[int, ...]
    given: int


def nearest(latents: int, frames: int) -> Int[np.ndarray, "f"]:
    """The latent frame that each pixel frame belongs to.

    Where the counts divide, groups of equal size; otherwise as in a causal VAE, whose first latent frame is one pixel
    frame alone (17 frames, 9 latents: 0, 1 1, 2 2, ...).
    """
    frame = np.arange(frames)
    if frames % latents == 0:
        return frame * latents // frames
    return -(-frame * (latents - 1) // max(frames - 1, 1))


def film(gallery: Gallery, index: int, known: int | None = None, made: int | None = None) -> Film:
    """One clip of a gallery, frame by frame: context and truth, canvas, staticness, order, sample, error.

    Only the first `known` frames of the truth are there, and the first `made` of what was predicted; or all.
    """
    truth, sample = gallery.truth[index], gallery.sample[index]
    context = gallery.context[index][-GIVEN:]
    count = len(truth)
    chosen = np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(int))
    size = (truth.shape[-2], truth.shape[-1])
    before = np.full(len(context), False)
    real = np.concatenate([~before, chosen < (count if known is None else known)])
    there = np.concatenate([before, chosen < (count if made is None else made)])
    first = _lane("context | truth", np.concatenate([context, truth[chosen]]).transpose(0, 2, 3, 1), 0)
    lanes = [replace(first, name=first.name if real[len(context) :].any() else "context", present=real)]
    drawn = []
    if gallery.canvas is not None:
        canvas = gallery.canvas[index]
        canvas = canvas[nearest(len(canvas), count)[chosen]]
        drawn.append(_lane("canvas", canvas.transpose(0, 2, 3, 1), len(context)))
        if gallery.staticness is not None:
            maps = gallery.staticness[index][nearest(gallery.staticness.shape[1], count)[chosen]]
            heat = _coloured(_enlarge(maps, size), STATIC_SCALE)
            drawn.append(_lane("staticness", heat, len(context), STATIC_SCALE, "moving", "static"))
    if gallery.order is not None:
        sets = max(int(gallery.order.max()), 1)
        maps = gallery.order[index][nearest(gallery.order.shape[1], count)[chosen]] / sets
        turns = _coloured(_enlarge(maps, size), ORDER_SCALE)
        drawn.append(_lane("order", turns, len(context), ORDER_SCALE, "first set", "last set"))
    drawn.append(_lane("sample", sample[chosen].transpose(0, 2, 3, 1), len(context)))
    lanes += [replace(lane, present=there) for lane in drawn]
    if (real & there).any():
        lanes.append(replace(_error(truth[chosen], sample[chosen], len(context)), present=real & there))
    given = gallery.context.shape[1]
    numbers = (*range(given - len(context), given), *(int(given + frame) for frame in chosen))
    return Film(gallery.names[index], tuple(lanes), numbers, len(context))


def reconstruction_film(clips: Reconstructions, index: int) -> Film:
    """One clip before and after the VAE, and the error."""
    truth, again = clips.truth[index], clips.reconstruction[index]
    chosen = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), SHOWN + 1)).round().astype(int))
    lanes = (
        _lane("real", truth[chosen].transpose(0, 2, 3, 1), 0),
        _lane("reconstructed", again[chosen].transpose(0, 2, 3, 1), 0),
        _error(truth[chosen], again[chosen], 0),
    )
    return Film(clips.names[index], lanes, tuple(map(int, chosen)), 0)


def strip(lane: Lane, given: int) -> bytes:
    """A lane as one WebP without loss at the clip's own size, clear between the frames and where there is none."""
    canvas, places = _ribbon(lane, given)
    for frame, present, left in zip(lane.frames, lane.present, places, strict=True):
        if present:
            canvas[:, left : left + frame.shape[1], :3] = frame
            canvas[:, left : left + frame.shape[1], 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "WEBP", **_LOSSLESS)
    return file.getvalue()


def centres(film: Film) -> tuple[tuple[float, ...], float]:
    """The middle of each column of a strip, and the strip's width, both in pixels."""
    canvas, places = _ribbon(film.lanes[0], film.given)
    return tuple(left + film.lanes[0].frames.shape[2] / 2 for left in places), float(canvas.shape[1])


def sheet(film: Film) -> bytes:
    """All lanes of a film in one labelled PNG, enlarged without smoothing."""
    ribbon, places = _ribbon(film.lanes[0], film.given)
    height, width = ribbon.shape[:2]
    times = max(1, round(96 / height))
    left, top = 150, 64
    step = height * times + 8
    page = Image.new("RGB", (left + width * times + 16, top + step * len(film.lanes) + 8), _DARK)
    pen = ImageDraw.Draw(page)
    pen.text((16, 12), film.name, _LIGHT, _font(17))
    for column, (place, frame) in enumerate(zip(places, film.numbers, strict=True)):
        middle = left + (place + film.lanes[0].frames.shape[2] / 2) * times
        pen.text((middle, top - 8), str(frame), _DIM if column < film.given else _ACCENT, _font(13), anchor="ms")
    for row, lane in enumerate(film.lanes):
        y = top + row * step
        pen.text((16, y + height * times / 2), lane.name, _LIGHT, _font(14), anchor="lm")
        if lane.scale:
            bar = _coloured(np.linspace(0, 1, 56)[None].repeat(8, 0), lane.scale)
            page.paste(Image.fromarray(bar), (16, int(y + height * times / 2) + 14))
            pen.text((16, y + height * times / 2 + 26), f"{lane.low} to {lane.high}", _DIM, _font(11), anchor="lt")
        for frame, present, place in zip(lane.frames, lane.present, places, strict=True):
            if present:
                page.paste(_larger(frame, times), (left + place * times, y))
    return _png(page)


def animation(gallery: Gallery, index: int) -> bytes:
    """Truth, canvas and sample side by side in motion, for ever: animated WebP, without loss. A bar shows the time."""
    context, truth, sample = gallery.context[index], gallery.truth[index], gallery.sample[index]
    parts = [("truth", truth), ("sample", sample)]
    if gallery.canvas is not None:
        canvas = gallery.canvas[index]
        parts.insert(1, ("canvas", canvas[nearest(len(canvas), len(truth))]))
    films = [np.concatenate([context, part]).transpose(0, 2, 3, 1) for _, part in parts]
    total = len(context) + len(truth)
    pictures = [
        _moment([name for name, _ in parts], [frames[turn] for frames in films], turn, len(context), total)
        for turn in range(total)
    ]
    file = io.BytesIO()
    durations = [MILLISECONDS] * (total - 1) + [_PAUSE]
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, **_LOSSLESS)
    return file.getvalue()


def png(frame: UInt8[np.ndarray, "c h w"]) -> bytes:
    """One frame as a PNG of its own size."""
    return _png(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))))


def overlay(
    frames: UInt8[np.ndarray, "f c h w"], maps: Float[np.ndarray, "f i o"], scale: str
) -> UInt8[np.ndarray, "f c h w"]:
    """Frames with the colours of their maps, values in [0, 1] on a grid of tokens, half transparent over them."""
    colour = _coloured(_enlarge(maps, (frames.shape[2], frames.shape[3])), scale).transpose(0, 3, 1, 2)
    return ((frames.astype(np.uint16) + colour) // 2).astype(np.uint8)


def colours(scale: str, count: int = 9) -> tuple[str, ...]:
    """A colour scale as so many CSS colours, from its low end to its high end."""
    samples = _coloured(np.linspace(0, 1, count)[None], scale)[0]
    return tuple(f"rgb({red} {green} {blue})" for red, green, blue in samples)


def _moment(
    names: Sequence[str], frames: Sequence[UInt8[np.ndarray, "h w 3"]], turn: int, given: int, total: int
) -> Image.Image:
    height, width = frames[0].shape[0] * _ENLARGED, frames[0].shape[1] * _ENLARGED
    gap, head, foot = 8, 26, 12
    page = Image.new("RGB", (len(frames) * (width + gap) - gap, head + height + foot), _DARK)
    pen = ImageDraw.Draw(page)
    for column, (name, frame) in enumerate(zip(names, frames, strict=True)):
        left = column * (width + gap)
        predicted = turn >= given or column == 0
        pen.text(
            (left + 6, head / 2),
            name if predicted else "context",
            _LIGHT if predicted else _DIM,
            _font(15),
            anchor="lm",
        )
        page.paste(_larger(frame, _ENLARGED), (left, head))
    along = (page.width - 1) * np.array([0, given, turn + 1]) / total
    y = head + height + foot // 2
    pen.rectangle((0, y, page.width, y + 3), (44, 52, 62))
    pen.rectangle((0, y, min(along[2], along[1]), y + 3), _DIM)
    if turn >= given:
        pen.rectangle((along[1], y, along[2], y + 3), _ACCENT)
    return page


def _lane(
    name: str, frames: UInt8[np.ndarray, "f h w 3"], before: int, scale: str = "", low: str = "", high: str = ""
) -> Lane:
    """A lane whose frames begin after so many columns without any."""
    empty = np.zeros((before, *frames.shape[1:]), np.uint8)
    present = np.arange(before + len(frames)) >= before
    return Lane(name, np.concatenate([empty, frames]), present, scale, low, high)


def _error(truth: UInt8[np.ndarray, "f c h w"], other: UInt8[np.ndarray, "f c h w"], before: int) -> Lane:
    distance = np.abs(truth.astype(np.float32) - other.astype(np.float32)).mean(1) / ERROR_RANGE
    return _lane("error", _coloured(distance, ERROR_SCALE), before, ERROR_SCALE, "0", f"{ERROR_RANGE} levels")


def _ribbon(lane: Lane, given: int) -> tuple[UInt8[np.ndarray, "h w 4"], tuple[int, ...]]:
    """A clear strip for a lane, and where its frames begin."""
    count, height, width = lane.frames.shape[:3]
    turn = _TURN - _SPACE if 0 < given < count else 0
    places = tuple(column * (width + _SPACE) + (turn if column >= given else 0) for column in range(count))
    return np.zeros((height, places[-1] + width, 4), np.uint8), places


def _enlarge(maps: Float[np.ndarray, "f i o"], size: tuple[int, int]) -> Float[np.ndarray, "f h w"]:
    """Maps on a grid of tokens, as large as the frames."""
    rows, columns = (np.arange(wide) * grid // wide for wide, grid in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows][:, :, columns]


def _coloured(values: Float[np.ndarray, "..."], scale: str) -> UInt8[np.ndarray, "... 3"]:
    """Values in [0, 1] as colours; what lies outside has the colour of its end."""
    return matplotlib.colormaps[scale](np.clip(values, 0, 1), bytes=True)[..., :3]


def _larger(frame: UInt8[np.ndarray, "h w 3"], times: int) -> Image.Image:
    return Image.fromarray(frame.repeat(times, 0).repeat(times, 1))


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same on every machine, and it knows more than Latin letters."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=False)
    return file.getvalue()
