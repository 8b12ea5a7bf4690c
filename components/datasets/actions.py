"""Actions of videos, one vector per frame: read from a user's CSV file, stored with the clips.

The action of a frame leads from that frame to the next one. A clip that keeps every n-th frame stores, for each kept
frame, the mean of the n actions up to the next kept frame, so no action is lost.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.datasets import captions, shards
from components.datasets.shards import SPLITS
from components.datasets.written import csv_files
from components.datasets.written.names import Names
from components.foundation.errors import InputError
from components.foundation.files import write_bytes

FILE: Final = "actions.safetensors"
CSV: Final = "actions.csv"  # the file that simulations write
KEYS: Final = ("video", "frame")
_COLUMNS: Final = "columns"  # metadata key of the column names


@dataclass(frozen=True, slots=True)
class Table:
    """Actions in the CSV file at `path`: one row per frame of each video, one value per column."""

    path: Path
    columns: tuple[str, ...]
    videos: dict[str, Float[ndarray, "_ i"]]


@dataclass(frozen=True, slots=True)
class Stored:
    """Actions of all clips in a folder, by split; row i belongs to clip i of its split."""

    columns: tuple[str, ...]
    splits: dict[str, Float[Tensor, "_ f i"]]


def write_csv(path: Path, columns: Sequence[str], videos: Iterable[tuple[str, Float[ndarray, "_ i"]]]) -> None:
    """Write a CSV file with one line per frame of each video; `read` returns exactly the same float32 values."""
    with csv_files.writing(path) as writer:
        writer.writerow((*KEYS, *columns))
        for video, rows in videos:
            writer.writerows((video, frame, *map(str, row)) for frame, row in enumerate(rows.astype(np.float32)))


def read(path: Path) -> Table:
    """Return the actions of every video in a CSV file.

    Raises InputError if the file or a column is missing, a line has too many or too few values, a value is not a finite
    number, or a video's frames are not listed exactly once each.
    """
    videos: dict[str, dict[int, list[float]]] = {}
    table = csv_files.read(path, "actions")
    columns = tuple(name for name in table.columns if name not in KEYS)
    if not columns or not set(KEYS) <= set(table.columns) or len(set(columns)) < len(columns):
        raise table.lacks("the columns video and frame and at least one action column, each name once")
    for number, line in table.lines():
        frame, values = _parsed(path, number, line, columns)
        rows = videos.setdefault(line["video"], {})
        if frame in rows:
            raise InputError(f"{path} has frame {frame} of {line['video']} twice; keep one of the lines")
        rows[frame] = values
    return Table(path, columns, {video: _ordered(path, video, rows) for video, rows in videos.items()})


def _parsed(path: Path, number: int, line: Mapping[str, str], columns: Sequence[str]) -> tuple[int, list[float]]:
    """Return the frame number and the values of a CSV line. Raises InputError for an invalid number."""
    where = f"{path}, line {number}"
    try:
        frame = int(line["frame"])
    except ValueError:
        frame = -1
    if frame < 0:
        raise InputError(f"{where}: frame is {line['frame']!r}; give the frame's number, counting from 0")
    values = []
    for name in columns:
        try:
            value = float(line[name])
        except ValueError:
            value = math.nan
        if not abs(value) <= float(np.finfo(np.float32).max):
            raise InputError(f"{where}: {name} is {line[name]!r}; give a finite number")
        values.append(value)
    return frame, values


def _ordered(path: Path, video: str, rows: Mapping[int, list[float]]) -> Float[ndarray, "f i"]:
    missing = next((frame for frame in range(len(rows)) if frame not in rows), None)
    if missing is not None:
        raise InputError(f"{path} has no line for frame {missing} of {video}; add one line per frame, counting from 0")
    return np.array([rows[frame] for frame in range(len(rows))])


def matched(table: Table, videos: Collection[str], others: Collection[str]) -> Table:
    """Return the table with each spelling of a video's name replaced by the data set's own name.

    Every video of `videos` needs actions; a video of `others` may have none. Raises InputError if one of `videos` has
    no actions, or if the table names an unknown video or spells one video in two ways.
    """
    names = Names((*videos, *others))
    found: dict[str, Float[ndarray, "_ i"]] = {}
    for text, rows in table.videos.items():
        name = names.find(text)
        if name is None:
            lost = sorted(text for text in table.videos if names.find(text) is None)
            raise InputError(
                f"{table.path} has actions for {captions.some(lost)}, but the data set has no such video; "
                f"add the video or remove its lines{captions.hint(names, text)}"
            )
        if name in found:
            raise InputError(f"{table.path} names {name} in two ways, one of them {text}; name it in one way")
        found[name] = rows
    if bare := sorted(set(videos) - found.keys()):
        raise InputError(f"{table.path} has no actions for {captions.some(bare)}; add a line for each of its frames")
    return Table(table.path, table.columns, found)


def check_length(table: Table, video: str, frames: int) -> None:
    """Raise InputError unless the table has one row for each of the video's frames."""
    if (lines := len(table.videos[video])) != frames:
        raise InputError(
            f"{table.path} has {lines} lines for {video}, which has {frames} frames; give one line per frame"
        )


def cut(rows: Float[ndarray, "f i"], first: int, frames: int, stride: int) -> Float[Tensor, "o i"]:
    """Return the actions of a clip of o = `frames` frames: every `stride`-th frame of a video, starting at `first`."""
    starts = range(first, first + frames * stride, stride)
    return torch.from_numpy(np.stack([rows[start : start + stride].mean(axis=0) for start in starts])).float()


def write(out: Path, stored: Stored) -> dict[str, str]:
    """Write the actions of all clips. Return the manifest entry: file name -> sha256."""
    data = save(stored.splits, {_COLUMNS: json.dumps(list(stored.columns))})
    return {FILE: write_bytes(out / FILE, data)}


def of(folder: Path, files: Mapping[str, str]) -> Stored | None:
    """Return the actions of the clips in a folder, or None if its manifest's `files` list no actions.

    Raises InputError if the file is missing or damaged.
    """
    if FILE not in files:
        return None
    path = shards.checked(folder, FILE, files[FILE])
    try:
        with safe_open(path, framework="pt") as file:
            columns = json.loads((file.metadata() or {})[_COLUMNS])
            return Stored(tuple(columns), {split: file.get_tensor(split) for split in SPLITS})
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {shards.AGAIN}") from None
