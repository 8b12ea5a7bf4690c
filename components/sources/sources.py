"""Video sources: a user's own folder, or a published data set in its official layout."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.sources import collection, folders, splits
from components.sources.bair import BairConfig
from components.sources.collection import Collection, FromFiles, Published, Source
from components.sources.folders import Finding
from components.sources.kinetics600 import Kinetics600Config
from components.sources.splits import HashSplit, ListsSplit, SplitConfig
from components.sources.ucf101 import Ucf101Config
from components.video import video


class FolderConfig(FromFiles):
    """A user's folder of videos and the rule that assigns each file to a split."""

    kind: Literal["folder"]
    split: Annotated[SplitConfig, Field(discriminator="kind")]

    def find(self) -> Collection:
        """Return the videos of the folder, each file once.

        A link to a file is followed. Files that are no videos, hidden files and links to folders of the data set are
        reported as ignored, except the files that the settings name. Raises InputError if the folder is missing,
        unreadable, not a folder or without videos, if it holds a link to a folder elsewhere, if a split's folder or
        list is missing, if a split has no video, or if one file is in two splits.
        """
        folder = self.folder
        paths, left_out = folders.walk(folder, self._unwanted())
        names = folders.by_name(folder, paths)
        if not names:
            suffixes = ", ".join(sorted(video.SUFFIXES))
            raise InputError(f"{folder} holds no videos; add files that end in {suffixes}, there or in sub-folders")
        assigned = splits.assign(self.split, folder, names)
        first: dict[str, Source] = {}
        for name, path in names.items():
            if (split := assigned.splits.get(name)) is None:
                left_out.append(Finding(kind="left out", split=None, video=name, reason="is in no split"))
                continue
            source = Source(split, name, path)
            twin = first.setdefault(os.path.realpath(path), source)
            if twin.split != split and not isinstance(self.split, HashSplit):
                raise InputError(
                    f"{twin.name} and {name} in {folder} are the same file, in the splits {twin.split} and {split}; "
                    "keep it in one split"
                )
            if twin is not source:
                left_out.append(
                    Finding(kind="left out", split=split, video=name, reason=f"is the same file as {twin.name}")
                )
        return collection.collect(folder, first.values(), missing=assigned.missing, left_out=left_out)

    def _unwanted(self) -> Callable[[Path], str | None]:
        """Return the function that says why a file is no video, and "" for the files that the settings name."""
        lists = (self.split.train, self.split.val, self.split.test) if isinstance(self.split, ListsSplit) else ()
        named = {self.inside(file) for file in (*lists, self.words, self.actions) if file is not None}
        return lambda path: (reason := video.why_no_video(path)) and ("" if path in named else reason)


DatasetConfig = FolderConfig | BairConfig | Ucf101Config | Kinetics600Config
AnyDataset = Annotated[DatasetConfig, Field(discriminator="kind")]  # for fields of parameters


class _Row(Config):
    dataset: AnyDataset


def check(tables: Mapping[str, Any], where: str) -> int:
    """Check the folders of all data sets before DVC reads them, and return the number of checked folders.

    `tables` is the content of the params file `where`. Missing folders that a simulation of `tables` will write are
    skipped. Raises InputError if a folder is missing, if DVC cannot read it, or if DVC would not detect changes of a
    file in it.
    """
    made = {f"data/videos/{name}" for name in tables.get("simulations") or {}}
    checked: set[Path] = set()
    for name, entry in (tables.get("datasets") or {}).items():
        dataset = parse(_Row, {"dataset": entry}, where=f"{where}: datasets.{name}").dataset
        if dataset.path in made and not Path(dataset.path).exists():
            continue
        _check_place(dataset.folder, f"{where}: datasets.{name}.path")
        for file in (dataset.words, dataset.actions):
            if file is not None:
                dataset.inside(file)
        if dataset.folder not in checked:
            folders.check(dataset.folder)
        checked.add(dataset.folder)
    return len(checked)


def _check_place(folder: Path, key: str) -> None:
    """Raise InputError if a folder of videos holds the clips that are cut from it: DVC refuses such a project."""
    if Path("data/clips").absolute().is_relative_to(os.path.abspath(folder)):
        raise InputError(
            f"{key} is {folder}, which holds the stages' outputs in data/clips, so DVC cannot track it; "
            "move the videos to a folder of their own"
        )


def find(config: DatasetConfig) -> Collection:
    """Return the videos of a data set.

    Raises InputError if the folder is unusable, or if it is incomplete and `require_complete` is set.
    """
    found = config.find()
    if isinstance(config, Published) and config.require_complete and not found.complete:
        assert found.facts is not None
        raise InputError(
            f"{config.path} is an incomplete copy of {found.facts.name}: {found.counted()}; "
            f"download the rest from {found.facts.home}, or set require_complete to false"
        )
    return found
