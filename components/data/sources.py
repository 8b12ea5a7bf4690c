"""Where videos come from: a folder of one's own, or a published data set in its official layout."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from components.config import Config
from components.data import collection, video
from components.data.bair import BairConfig
from components.data.collection import Collection, Cutting, Finding, Published, Source
from components.data.kinetics600 import Kinetics600Config
from components.data.shards import SPLITS, Split
from components.data.ucf101 import Ucf101Config
from components.errors import InputError


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


class ListsSplit(Config):
    """Text files in the folder name the videos of each split, one path below the folder a line."""

    kind: Literal["lists"]
    train: str
    val: str
    test: str


SplitConfig = NamedSplit | FoldersSplit | HashSplit | ListsSplit
Rule = Callable[[str], Split | None]  # from a video's name to its split; None is a video that belongs to no split


class FolderConfig(Cutting):
    """A folder of videos, and the rule that gives each file to one split."""

    kind: Literal["folder"]
    split: Annotated[SplitConfig, Field(discriminator="kind")]

    def find(self) -> Collection:
        """The videos of a folder, each file once.

        Hidden files are left out, links are followed, loops of links are entered once. Raises InputError: the folder is
        missing, is no folder, cannot be read or holds no videos; a split's folder or list is missing; nothing is left
        to train; one file is in two splits.
        """
        folder = self.folder
        listed = _listed(self.split, folder) if isinstance(self.split, ListsSplit) else {}
        rule: Rule = listed.get if isinstance(self.split, ListsSplit) else _rule(self.split, folder)
        paths, left_out = collection.walk(folder, video.SUFFIXES)
        if not paths:
            suffixes = ", ".join(sorted(video.SUFFIXES))
            raise InputError(
                f"{folder} holds no videos; files that end in {suffixes} are looked for, in sub-folders too"
            )
        first: dict[str, Source] = {}
        for path in paths:
            name = collection.name(path.relative_to(folder))
            if (split := rule(name)) is None:
                left_out.append(Finding(kind="left out", split=None, video=name, reason="is in no split"))
                continue
            source = Source(split, name, path)
            twin = first.setdefault(os.path.realpath(path), source)
            if twin.split != split and not isinstance(self.split, HashSplit):
                raise InputError(
                    f"{twin.name} and {name} in {folder} are the same file, in the splits {twin.split} and {split}; "
                    "keep one of them"
                )
            if twin is not source:
                left_out.append(
                    Finding(kind="left out", split=split, video=name, reason=f"is the same file as {twin.name}")
                )
        there = {collection.name(path.relative_to(folder)) for path in paths}
        missing = [
            Finding(kind="missing", split=split, video=name, reason="is listed, but not there")
            for name, split in listed.items()
            if name not in there
        ]
        return collection.collect(folder, first.values(), missing=missing, left_out=left_out)


DatasetConfig = FolderConfig | BairConfig | Ucf101Config | Kinetics600Config
AnyDataset = Annotated[DatasetConfig, Field(discriminator="kind")]  # as a field of parameters


def find(config: DatasetConfig) -> Collection:
    """The videos of a data set. Raises InputError for an unusable folder, or one that must be complete and is not."""
    found = config.find()
    if isinstance(config, Published) and config.require_complete and not found.complete:
        assert found.facts is not None
        raise InputError(
            f"{config.path} is not the whole of {found.facts.name}: {found.counted()}; "
            f"get the rest from {found.facts.home}, or set require_complete to false"
        )
    return found


def _rule(config: NamedSplit | FoldersSplit | HashSplit, folder: Path) -> Rule:
    match config:
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
            return lambda name: collection.drawn(name, {"test": test_share, "val": val_share})


def _listed(config: ListsSplit, folder: Path) -> dict[str, Split]:
    """The names in the lists, and the split of each."""
    chosen: dict[str, Split] = {}
    for split, file in zip(SPLITS, (config.train, config.val, config.test), strict=True):
        for name in collection.read_lines(folder / file):
            if chosen.setdefault(name, split) != split:
                raise InputError(
                    f"{name} is listed for {chosen[name]} and for {split} in {folder}; list it in one of them"
                )
    return chosen
