"""Clips for the page: animations, and films as strips below numbered columns."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError
from components.reporting import galleries
from components.reporting.results import Gallery


@dataclass(frozen=True, slots=True)
class Strip:
    """A lane of a film: its name, its picture and the colours of its scale."""

    name: str
    picture: str
    gradient: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Reel:
    """A film for the page: strips below numbered columns."""

    title: str
    strips: tuple[Strip, ...]
    columns: tuple[tuple[str, float, bool], ...]  # number, middle in pixels, whether context
    width: float
    height: int


@dataclass(frozen=True, slots=True)
class Motion:
    """An animation, and how many pictures stand side by side in it."""

    row: str
    reason: str  # why it is shown
    picture: str
    across: int


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as every row predicted it."""

    name: str
    motions: tuple[Motion, ...]
    reels: tuple[Reel, ...]


def clips(shown: Mapping[str, Gallery], out: Path) -> list[Clip]:
    """Clips of equal name stand together, in the order of their first row; their pictures are written to `out`."""
    places: dict[str, list[tuple[str, int]]] = {}
    for row, gallery in shown.items():
        for index, name in enumerate(gallery.names):
            places.setdefault(name, []).append((row, index))
    return [_clip(name, [(row, shown[row], index) for row, index in rows], out) for name, rows in places.items()]


def _clip(name: str, rows: Sequence[tuple[str, Gallery, int]], out: Path) -> Clip:
    motions, reels = [], []
    for row, gallery, index in rows:
        file = f"gallery-{file_name(row)}-{index}"
        film = galleries.film(gallery, index)
        motion = galleries.animation(gallery, index)
        (out / f"{file}.webp").write_bytes(motion)
        (out / f"{file}.png").write_bytes(galleries.sheet(film))
        motions.append(Motion(row, gallery.reasons[index], uri(motion, "webp"), 2 if gallery.canvas is None else 3))
        reels.append(reel(row, film))
    return Clip(name, tuple(motions), tuple(reels))


def reel(title: str, film: galleries.Film) -> Reel:
    """A film, its lanes as pictures inside the page."""
    strips = tuple(
        Strip(
            lane.name,
            uri(galleries.strip(lane, film.given), "webp"),
            ", ".join(galleries.colours(lane.scale)) if lane.scale else "",
            lane.low,
            lane.high,
        )
        for lane in film.lanes
    )
    middles, width = galleries.centres(film)
    columns = tuple(
        (str(number), middle, column < film.given)
        for column, (number, middle) in enumerate(zip(film.numbers, middles, strict=True))
    )
    return Reel(title, strips, columns, width, film.lanes[0].frames.shape[1])


def uri(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def file_name(row: str) -> str:
    """A name of the table of experiments as part of a file's name. Raises InputError where nothing is left of it."""
    name = re.sub(r"[^\w.-]", "_", row)
    if name.strip(".") == "":
        raise InputError(f"the row {row!r} cannot name a file; rename it in params.yaml")
    return name
