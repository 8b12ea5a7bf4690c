"""Clips on disk: shards of uint8 "f c h w", an index of each clip's source video, and a manifest."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets import annotations, shards
from components.datasets.annotations import Annotations
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count

INDEX: Final = "clips.csv"
COLUMNS: Final = ("clip", "split", "shard", "row", "video", "first_frame", "stride", "scored")


class ClipsManifest(shards.Manifest):
    """Manifest of a folder of clips. Its hash depends on the clips and the settings, not on the videos' location."""

    frames: Count
    size: tuple[Count, Count]  # height, width in pixels
    channels: Literal["rgb"]
    cut: dict[str, Any]  # the data set's settings that the clips depend on


def listed(folder: Path, shard: shards.Shard) -> set[tuple[str, int]]:
    """Return (video, first frame) of every clip in a shard. Raises InputError if clips.csv cannot be read."""
    return {(video, first) for index, video, first in _lines(folder, shard.split) if index == shard.index}


def _lines(folder: Path, split: str) -> list[tuple[int, str, int]]:
    """Return (shard, video, first frame) of each clip of a split, in order."""
    path = folder / INDEX
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                (int(line["shard"]), line["video"], int(line["first_frame"]))
                for line in csv.DictReader(file)
                if line["split"] == split
            ]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); {shards.AGAIN}") from None


class Clips:
    """The clips of one split, read through a memory map."""

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
        """Open the clips of a split.

        Raises InputError if the manifest is missing or damaged, a shard is missing or truncated, or the split is
        unknown or empty.
        """
        return cls(folder, shards.read_manifest(ClipsManifest, folder), split)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b f c h w"]:
        """Return the clips `indices`, in this order.

        Raises InputError if a shard is damaged, IndexError if there is no such clip.
        """
        return self._rows.read(indices)

    def name(self, index: int) -> str:
        """Return the clip's source: "folder/video.mp4@13" starts at frame 13 of that video."""
        return self._names[index]

    def annotations(self, indices: Sequence[int]) -> Annotations:
        """Return the annotations of the clips `indices`. Raises InputError if a file is missing or damaged."""
        return annotations.of(self._folder, self._files, self._split, indices)

    def verify(self) -> None:
        """Compare every file of the split with the manifest. Raises InputError that names the first damaged file."""
        self._rows.verify()

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        names = tuple(f"{video}@{first}" for _, video, first in _lines(self._folder, self._split))
        if len(names) != len(self):
            raise InputError(
                f"{self._folder / INDEX} lists {len(names)} clips of {self._split}, not {len(self)} as the manifest "
                f"says; {shards.AGAIN}"
            )
        return names
