"""Clips of the page: animations, and frame-by-frame strips below numbered columns."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.foundation.errors import InputError
from components.pictures import galleries
from components.pictures.records import Gallery


@dataclass(frozen=True, slots=True)
class Strip:
    """A lane of a film: its name, its image as a data URI and its colour scale."""

    name: str
    picture: str
    gradient: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Reel:
    """A filmstrip as one image strip per lane, below a row of frame numbers."""

    title: str
    strips: tuple[Strip, ...]
    columns: tuple[tuple[str, float, bool], ...]  # frame number, centre in pixels, whether context
    width: float
    height: int


@dataclass(frozen=True, slots=True)
class Animation:
    """An animation; `across` is the number of videos side by side in it."""

    row: str
    reason: str  # why it is shown
    picture: str
    across: int


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip with the predictions of every row."""

    name: str
    animations: tuple[Animation, ...]
    reels: tuple[Reel, ...]


def clips(by_row: Mapping[str, Gallery], out: Path) -> list[Clip]:
    """Group the clips of all galleries by name, in order of first appearance; write their images to `out`."""
    grouped: dict[str, list[tuple[str, int]]] = {}
    for row, gallery in by_row.items():
        for index, name in enumerate(gallery.names):
            grouped.setdefault(name, []).append((row, index))
    return [_clip(name, [(row, by_row[row], index) for row, index in rows], out) for name, rows in grouped.items()]


def _clip(name: str, rows: Sequence[tuple[str, Gallery, int]], out: Path) -> Clip:
    animations, reels = [], []
    for row, gallery, index in rows:
        file = f"gallery-{file_name(row)}-{index}"
        film = galleries.filmstrip(gallery, index)
        animation = galleries.animation(gallery, index)
        (out / f"{file}.webp").write_bytes(animation)
        (out / f"{file}.png").write_bytes(galleries.sheet(film))
        animations.append(
            Animation(row, gallery.reasons[index], uri(animation, "webp"), 2 if gallery.canvas is None else 3)
        )
        reels.append(reel(row, film))
    return Clip(name, tuple(animations), tuple(reels))


def reel(title: str, film: galleries.Filmstrip) -> Reel:
    """Return a film with its lanes encoded as data URIs."""
    strips = tuple(
        Strip(
            lane.name,
            uri(galleries.strip(lane, film.context), "webp"),
            ", ".join(galleries.colours(lane.scale)) if lane.scale else "",
            lane.low,
            lane.high,
        )
        for lane in film.lanes
    )
    middles, width = galleries.centres(film)
    columns = tuple(
        (str(number), middle, column < film.context)
        for column, (number, middle) in enumerate(zip(film.indices, middles, strict=True))
    )
    return Reel(title, strips, columns, width, film.lanes[0].frames.shape[1])


def uri(content: bytes, kind: str) -> str:
    """Encode an image as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def file_name(row: str) -> str:
    """Return a row's name as part of a file name. Raises InputError if the name is empty or only dots."""
    name = re.sub(r"[^\w.-]", "_", row)
    if name.strip(".") == "":
        raise InputError(f"the row name {row!r} is empty or only dots and cannot name a file; rename it in params.yaml")
    return name
