"""Captions or labels of videos: read from a user's CSV file, stored with the clips."""

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from components.datasets import shards
from components.datasets.shards import SPLITS
from components.datasets.written import csv_files
from components.datasets.written.names import Names
from components.foundation.errors import InputError
from components.foundation.files import write_text

FILE: Final = "words.csv"
COLUMNS: Final = ("split", "clip", "words")
KINDS: Final = ("caption", "label")  # the second column of the csv beside the videos
_SHOWN: Final = 3  # names listed in an error message


def read(path: Path, videos: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Return the caption or the label of every video in a CSV file. Videos in `others` need no caption or label.

    Videos may be spelt in any way that `Names` finds. Raises InputError if the file or a column is missing, a line has
    too many or too few values, a video is listed twice or unknown, or one of `videos` has no caption or label.
    """
    table = csv_files.read(path, "words")
    kinds = [kind for kind in KINDS if kind in table.columns]
    if "video" not in table.columns or len(kinds) != 1:
        raise table.lacks("the columns video and caption, or video and label")
    kind, names = kinds[0], Names((*videos, *others))
    captions: dict[str, str] = {}
    unknown: list[str] = []
    for number, line in table.lines():
        name = names.find(line["video"])
        if name is None:
            unknown.append(line["video"])
            continue
        if name in captions:
            raise InputError(f"{path} names {name} twice, the second time in line {number}; keep one of its lines")
        if not line[kind].strip():
            raise InputError(f"{path}, line {number}: the {kind} of {name} is blank; write one")
        captions[name] = line[kind]
    if unknown:
        raise InputError(
            f"{path} has a {kind} for {some(sorted(unknown))}, but the data set has no such video; "
            f"add the video or remove its line{hint(names, unknown[0])}"
        )
    if bare := sorted(name for name in videos if name not in captions):
        raise InputError(f"{path} has no {kind} for {some(bare)}; add a line for each video")
    return captions


def hint(names: Names, text: str) -> str:
    """Return the end of an error message: an example of a name of this data set."""
    return f" (videos are named by their paths in the data set's folder, such as {names.example(text)})"


def some(names: Sequence[str]) -> str:
    """Return the first of these names and the number of the others, for an error message."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def write(out: Path, words: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write the captions or labels of all clips, in order. Return the manifest entry: file name -> sha256."""
    rows = [(split, clip, one) for split in SPLITS for clip, one in enumerate(words.get(split, ()))]
    return {FILE: write_text(out / FILE, csv_files.to_csv(COLUMNS, rows))}


def of(folder: Path, files: Mapping[str, str]) -> dict[str, tuple[str, ...]] | None:
    """Return the captions or labels of the clips in a folder, by split; None if `files` has no such file.

    Raises InputError if the file is missing or damaged.
    """
    if FILE not in files:
        return None
    with shards.checked(folder, FILE, files[FILE]).open(encoding="utf-8", newline="") as file:
        lines = [(line["split"], line["words"]) for line in csv.DictReader(file)]
    return {split: tuple(one for own, one in lines if own == split) for split in SPLITS}
