"""Clips on disk: uint8 "f c h w" in shards, where each comes from, and how they were cut."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from components.data import shards, words
from components.errors import InputError

INDEX: Final = "clips.csv"
COLUMNS: Final = ("clip", "split", "shard", "row", "video", "first_frame", "stride", "scored")


class ClipsManifest(shards.Manifest):
    """What a folder of clips holds: equal clips cut by equal choices have equal hashes, wherever the videos lie."""

    frames: int
    size: tuple[int, int]  # height, width in pixels
    channels: Literal["rgb"]
    cut: dict[str, Any]  # the choices that the clips were cut by


def listed(folder: Path, shard: shards.Shard) -> set[tuple[str, int]]:
    """The video and first frame of every clip of a shard. Raises InputError if the list of clips cannot be read."""
    return {(video, first) for index, video, first in _lines(folder, shard.split) if index == shard.index}


def _lines(folder: Path, split: str) -> list[tuple[int, str, int]]:
    """Shard, video and first frame of each clip of a split, in their order."""
    path = folder / INDEX
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                (int(line["shard"]), line["video"], int(line["first_frame"]))
                for line in csv.DictReader(file)
                if line["split"] == split
            ]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); make its folder again") from None


class Clips:
    """The clips of one split, read from disk by memory map."""

    def __init__(self, folder: Path, manifest: ClipsManifest, split: str) -> None:
        height, width = manifest.size
        self.frames = manifest.frames
        self.size = manifest.size
        self.hash = manifest.hash
        self._split = split
        self._folder = folder
        self._files = manifest.files
        self._rows = shards.Rows(folder, manifest, split, (manifest.frames, 3, height, width), torch.uint8)

    @classmethod
    def open(cls, folder: Path, split: str) -> "Clips":
        """Raises InputError: manifest missing or damaged, shard missing or cut short, unknown or empty split."""
        return cls(folder, shards.read_manifest(ClipsManifest, folder), split)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b f c h w"]:
        """These clips, in this order. Raises InputError for a damaged shard, IndexError outside the split."""
        return self._rows.read(indices)

    def name(self, index: int) -> str:
        """Where a clip comes from: "folder/video.mp4@13" starts at frame 13 of that video."""
        return self._names[index]

    def words(self, indices: Sequence[int]) -> list[str] | None:
        """What these clips are about; None where the data set does not tell. Raises InputError for a damaged file."""
        told = words.of(self._folder, self._files)
        return None if told is None else [told[self._split][index] for index in indices]

    def verify(self) -> None:
        """Read every byte of the split. Raises InputError that names the first damaged file."""
        self._rows.verify()

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        names = tuple(f"{video}@{first}" for _, video, first in _lines(self._folder, self._split))
        if len(names) != len(self):
            told = f"{self._folder / INDEX} lists {len(names)} clips of {self._split}, not {len(self)}"
            raise InputError(f"{told}; make it again")
        return names
