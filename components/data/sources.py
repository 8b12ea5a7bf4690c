"""Where videos come from: a folder of files, and the rule that gives each file to one split."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from components.config import Config
from components.data import video
from components.data.shards import SPLITS, Split
from components.errors import InputError
from components.randomness import derive

_DRAWS: Final = 2**63  # `derive` is uniform in [0, 2^63)


class NamedSplit(Config):
    """The sub-folders train, val and test are the splits."""

    kind: Literal["named"]


class FoldersSplit(Config):
    """Whole top-level sub-folders (a laboratory, a camera) go to val or test, everything else to train."""

    kind: Literal["folders"]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @model_validator(mode="after")
    def _apart(self) -> "FoldersSplit":
        if both := sorted(set(self.val) & set(self.test)):
            raise ValueError(f"{both[0]} is listed for val and for test; give it to one of them")
        return self


class HashSplit(Config):
    """Shares of the videos, drawn by a hash of the relative path: a video that is added or removed moves no other."""

    kind: Literal["hash"]
    val: NonNegativeFloat
    test: NonNegativeFloat

    @model_validator(mode="after")
    def _leave_some(self) -> "HashSplit":
        if self.val + self.test >= 1:
            raise ValueError(
                f"val {self.val} and test {self.test} leave nothing to train; they must sum to less than 1"
            )
        return self


class FolderConfig(Config):
    """A folder of videos, and how clips are cut out of them.

    A clip is `frames` frames, every `stride`-th of the video; from one clip's first frame to the next it is `step`
    frames of the video. A shard of `shard` videos is one job and is held in memory as a whole.
    """

    kind: Literal["folder"]
    path: str
    split: Annotated[NamedSplit | FoldersSplit | HashSplit, Field(discriminator="kind")]
    frames: PositiveInt
    stride: PositiveInt
    step: PositiveInt
    resolution: tuple[PositiveInt, PositiveInt]  # height, width in pixels
    shard: PositiveInt
    max_rejected: Annotated[float, Field(ge=0, le=1)]  # share of the videos; more fail the stage


DatasetConfig = FolderConfig


@dataclass(frozen=True, slots=True)
class Source:
    """One video file of one split; `name` is its path in the data set's folder, with forward slashes."""

    split: Split
    name: str
    path: Path


def find(config: DatasetConfig) -> tuple[Source, ...]:
    """The videos of a folder, sorted by split and name, each file once.

    Hidden files are left out, links are followed, loops of links are entered once. Raises InputError: the folder is
    missing, is no folder, cannot be read or holds no videos; a split's folder is missing; nothing is left to train; one
    file is in two splits.
    """
    folder = Path(config.path).expanduser()
    if not folder.exists():
        raise InputError(f"the folder of videos {folder} does not exist; correct the data set's path")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder of videos; correct the data set's path")
    rule = _rule(config, folder)
    first: dict[str, Source] = {}
    for path in _videos(folder):
        name = _name(path.relative_to(folder))
        if (split := rule(name)) is None:
            continue
        source = Source(split, name, path)
        twin = first.setdefault(os.path.realpath(path), source)
        if twin.split != split and not isinstance(config.split, HashSplit):
            raise InputError(
                f"{twin.name} and {name} in {folder} are the same file, in the splits {twin.split} and {split}; "
                "keep one of them"
            )
    if not first:
        suffixes = ", ".join(sorted(video.SUFFIXES))
        raise InputError(f"{folder} holds no videos; files that end in {suffixes} are looked for, in sub-folders too")
    if not any(source.split == "train" for source in first.values()):
        raise InputError(f"no video in {folder} is left for the split train; change the data set's split or add videos")
    return tuple(sorted(first.values(), key=lambda source: (SPLITS.index(source.split), source.name)))


def _rule(config: DatasetConfig, folder: Path) -> Callable[[str], Split | None]:
    """From a video's name to its split; None is a video that belongs to no split."""
    match config.split:
        case NamedSplit():
            for split in SPLITS:
                if not (folder / split).is_dir():
                    raise InputError(
                        f"{folder / split} is not a folder; a data set with named splits needs the folders "
                        f"{', '.join(SPLITS)} (val and test may be empty)"
                    )
            return lambda name: next((split for split in SPLITS if name.startswith(f"{split}/")), None)
        case FoldersSplit(val=val, test=test):
            present = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
            for listed in (*val, *test):
                if listed not in present:
                    raise InputError(
                        f"the data set's split lists the folder {listed!r}, which is not in {folder}; "
                        f"its folders are {', '.join(present) or 'none'}"
                    )
            chosen: dict[str, Split] = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
            return lambda name: chosen.get(name.split("/")[0], "train") if "/" in name else "train"
        case HashSplit(val=val_share, test=test_share):
            return lambda name: _drawn(derive("split", name) / _DRAWS, val_share, test_share)


def _drawn(number: float, val: float, test: float) -> Split:
    if number < test:
        return "test"
    return "val" if number < test + val else "train"


def _videos(folder: Path) -> Iterator[Path]:
    """Video files in a folder, in a fixed order; a loop of links is entered once in each top-level folder."""
    home = os.path.realpath(folder)
    seen: set[tuple[str, str]] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        top, real = os.path.relpath(place, folder).split(os.sep)[0], os.path.realpath(place)
        if (top, real) in seen or (top != os.curdir and real == home):
            folders.clear()
            continue
        seen.add((top, real))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in video.SUFFIXES:
                yield Path(place, name)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); give access to it or move it away") from None


def _name(relative: Path) -> str:
    """A path as text that every file format can hold, even where its bytes are no UTF-8."""
    return relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
