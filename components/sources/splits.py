"""The rules that assign the videos of a user's folder to the splits train, val and test."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from components.datasets.shards import SPLITS, Split
from components.datasets.written.names import Names, read_lines
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Share
from components.sources import collection, folders
from components.sources.folders import Finding


class NamedSplit(Config):
    """Split by sub-folders named train, val and test."""

    kind: Literal["named"]


class FoldersSplit(Config):
    """Split by top-level sub-folders, such as one per camera: listed ones go to val or test, all others to train."""

    kind: Literal["folders"]
    val: tuple[str, ...]  # names of sub-folders
    test: tuple[str, ...]  # names of sub-folders

    @model_validator(mode="after")
    def _apart(self) -> "FoldersSplit":
        if both := sorted(set(self.val) & set(self.test)):
            raise ValueError(f"{both[0]} is listed for val and for test; list it for one of them")
        return self


class HashSplit(Config):
    """Split by a hash of each video's relative path, into the shares `val` and `test`; the rest is train.

    Adding or removing a video does not change the split of another video.
    """

    kind: Literal["hash"]
    val: Share  # about this share of the videos
    test: Share  # about this share of the videos

    @model_validator(mode="after")
    def _leave_some(self) -> "HashSplit":
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave nothing to train; lower them to a sum below 1")
        return self


class ListsSplit(Config):
    """Split by text files in the folder: each lists the videos of one split, one relative path per line.

    A path may be spelt in any way that `Names` finds, and a class number may follow it.
    """

    kind: Literal["lists"]
    train: str  # path of the list, relative to the folder of the videos
    val: str  # path of the list, relative to the folder of the videos
    test: str  # path of the list, relative to the folder of the videos


SplitConfig = NamedSplit | FoldersSplit | HashSplit | ListsSplit


@dataclass(frozen=True, slots=True)
class Assignment:
    """Split of each video that has one, by name; `missing` are listed videos that do not exist."""

    splits: dict[str, Split]
    missing: tuple[Finding, ...]


def assign(config: SplitConfig, folder: Path, names: Collection[str]) -> Assignment:
    """Assign videos to splits by their names; `names` must not be empty.

    Raises InputError if the folder or list of a split is missing, if a split's folder is a link, if a video is in two
    lists, or if a split that needs videos has none.
    """
    match config:
        case NamedSplit():
            return Assignment({name: split for name in names for split in _named(folder) if _below(split, name)}, ())
        case FoldersSplit():
            return _by_folders(config, folder, names)
        case HashSplit(val=val_share, test=test_share):
            shares: dict[Split, float] = {"test": test_share, "val": val_share}
            drawn = {name: collection.drawn(name, shares) for name in names}
            for split, share in shares.items():
                if share and split not in drawn.values():
                    raise InputError(
                        f"none of the {len(drawn)} videos in {folder} is assigned to {split}, whose share is "
                        f"{share:g}; raise the share, or split by folders or lists"
                    )
            return Assignment(drawn, ())
        case ListsSplit():
            return _by_lists(config, folder, names)


def _below(folder: str, name: str) -> bool:
    return name.startswith(f"{folder}/")


def _named(folder: Path) -> tuple[Split, ...]:
    for split in SPLITS:
        if not folders.inside(folder, split).is_dir():
            raise InputError(
                f"{folder / split} is not a folder; a data set with named splits needs the folders "
                f"{', '.join(SPLITS)} (val and test may be empty)"
            )
    return SPLITS


def _by_folders(config: FoldersSplit, folder: Path, names: Collection[str]) -> Assignment:
    present = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    for listed in (*config.val, *config.test):
        if listed not in present:
            raise InputError(
                f"the data set's split lists the folder {listed!r}, which is not in {folder}; "
                f"its folders are {', '.join(present) or 'none'}"
            )
        if not any(_below(listed, name) for name in names):
            folders.inside(folder, listed)  # raises InputError if it is a link
            raise InputError(
                f"the data set's split lists the folder {listed!r}, but there is no video in {folder / listed}; "
                "add a video, or remove the folder from the split"
            )
    chosen: dict[str, Split] = {**dict.fromkeys(config.val, "val"), **dict.fromkeys(config.test, "test")}
    return Assignment({name: chosen.get(name.split("/")[0], "train") for name in names}, ())


def _by_lists(config: ListsSplit, folder: Path, names: Collection[str]) -> Assignment:
    known = Names(names, folder)
    splits: dict[str, Split] = {}
    missing: list[Finding] = []
    for split, file in zip(SPLITS, (config.train, config.val, config.test), strict=True):
        lines = list(read_lines(folders.inside(folder, file)))
        found = [name for _, line in lines if (name := known.find_labelled(line))]
        if not found:
            raise _found_nothing(split, folder / file, lines, known)
        for name in found:
            if splits.setdefault(name, split) != split:
                raise InputError(
                    f"{name} is listed for {splits[name]} and for {split} in {folder}; list it in one of them"
                )
        missing += _missing(split, file, lines, known)
    return Assignment(splits, tuple(missing))


def _missing(split: Split, file: str, lines: list[tuple[int, str]], known: Names) -> Iterator[Finding]:
    for number, line in lines:
        if not known.find_labelled(line):
            reason = f"is in line {number} of {file}, but is no video of the folder"
            yield Finding(kind="missing", split=split, video=line.strip(), reason=reason)


def _found_nothing(split: Split, path: Path, lines: list[tuple[int, str]], known: Names) -> InputError:
    if not lines:
        return InputError(f"the list {path} is empty, so the split {split} has no video; list at least one")
    number, line = lines[0]
    return InputError(
        f"no line of the list {path} names a video of the data set, so the split {split} is empty; line {number} is "
        f"{line.strip()!r}; write one path relative to the data set's folder, such as {known.example(line)}, per line"
    )
