"""What each clip is about, cached as latents are: hidden states of captions, or a one at the place of a label.

Captions and labels stand in a csv with the columns `video` and `caption`, or `video` and `label`; a video is named as
in clips.csv. A row of the cache belongs to the clip of that number in its split.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Float
from pydantic import JsonValue
from torch import Tensor

from components.config import Config, fingerprint
from components.data import shards
from components.data.clips import INDEX
from components.data.latents import refuse_stale
from components.data.shards import SPLITS, Split
from components.errors import InputError

SHARD, BATCH = 256, 32  # clips
_SHOWN: Final = 3  # names in a message
Column = Literal["caption", "label"]


# captions or labels -> a sequence of vectors for each; texts and labels are encoded behind this one signature
Encode = Callable[[Sequence[str]], Float[Tensor, "b l i"]]


class Labels:
    """A single vector a clip, with a one at the place of its label."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Raises InputError if a class is named twice."""
        if len(set(classes)) < len(classes):
            raise InputError("a class is named twice among the labels; name each once")
        self.classes = tuple(classes)

    @property
    def identity(self) -> str:
        """Equal classes in equal order."""
        return fingerprint({"classes": list(self.classes)})

    def __call__(self, words: Sequence[str]) -> Float[Tensor, "b 1 i"]:
        """Raises InputError for a label that is not among the classes."""
        if unknown := sorted(set(words) - set(self.classes)):
            raise InputError(
                f"unknown label {unknown[0]!r}; the classes are {', '.join(self.classes)}: correct it or add it to them"
            )
        places = torch.tensor([self.classes.index(word) for word in words])
        return torch.nn.functional.one_hot(places, len(self.classes)).float()[:, None]


class ConditionKey(Config):
    """What cached conditions depend on."""

    clips: str  # hash of the clips
    words: str  # sha256 of the csv
    encoder: str
    settings: dict[str, JsonValue]


class ConditionsManifest(shards.Manifest):
    """What a folder of conditions holds, and what it was made of."""

    key: ConditionKey
    shape: tuple[int, int]  # l, i of a row


def read_words(path: Path, column: Column, videos: Sequence[str]) -> dict[str, str]:
    """The caption or label of every video.

    Raises InputError: no such file or columns, a video named twice, captions without a video, a video without one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [(line["video"], line[column]) for line in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); put a csv of captions there") from None
    except (KeyError, ValueError, csv.Error):
        raise InputError(f"{path} is no csv with the columns video and {column}; give it that first line") from None
    words = dict(lines)
    if len(words) < len(lines):
        twice = next(name for index, (name, _) in enumerate(lines) if name in dict(lines[:index]))
        raise InputError(f"{path} names {twice} twice; keep one of its lines")
    known = set(videos)
    if lost := [name for name in words if name not in known]:
        raise InputError(f"{path} has a {column} for {_some(lost)}, which is no video here; add the video or remove it")
    if bare := sorted(name for name in known if words.get(name) is None):
        raise InputError(f"{path} has no {column} for {_some(bare)}; add a line for each video")
    return words


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def videos_of(clips: Path) -> dict[Split, list[str]]:
    """The video of each clip, split by split. Raises InputError if the list of clips is missing or damaged."""
    path = clips / INDEX
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [(line["split"], line["video"]) for line in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); make its folder again") from None
    return {split: [video for own, video in lines if own == split] for split in SPLITS}


def write(
    out: Path, videos: dict[Split, list[str]], words: dict[str, str], encode: Encode, key: ConditionKey
) -> dict[str, float]:
    """Encodes the words of every clip into shards, and lists them in manifest.json; returns what was written."""
    written, shape = [], (0, 0)
    for split in SPLITS:
        for index, start in enumerate(range(0, len(videos[split]), SHARD)):
            rows = torch.cat(list(_encoded(videos[split][start : start + SHARD], words, encode)))
            shape = (rows.shape[1], rows.shape[2])
            written.append(shards.write_rows(out, split, index, rows))
    present = shards.ordered(written)
    manifest = ConditionsManifest(shards=present, counts=shards.counts(present), files={}, key=key, shape=shape)
    shards.write_manifest(out, manifest)
    return {f"conditions_{split}": float(count) for split, count in manifest.counts.items()}


def _encoded(videos: Sequence[str], words: dict[str, str], encode: Encode) -> Iterator[Float[Tensor, "b l i"]]:
    for start in range(0, len(videos), BATCH):
        yield encode([words[video] for video in videos[start : start + BATCH]])


class Conditions:
    """The conditions of one split, read from disk by memory map; row i belongs to clip i of that split."""

    def __init__(self, folder: Path, manifest: ConditionsManifest, split: str) -> None:
        self.key, self.hash, self.shape = manifest.key, manifest.hash, manifest.shape
        self._rows = shards.Rows(folder, manifest, split, manifest.shape, torch.float32)

    @classmethod
    def open(cls, folder: Path, split: str, expect: ConditionKey | None) -> "Conditions":
        """`expect` is the key that they must have, None for any.

        Raises InputError: another key, manifest missing or damaged, shard missing or cut short, unknown or empty split.
        """
        manifest = shards.read_manifest(ConditionsManifest, folder)
        if expect is not None:
            refuse_stale(folder, manifest.key, expect, "conditions")
        return cls(folder, manifest, split)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> Float[Tensor, "b l i"]:
        """These rows, in this order. Raises InputError for a damaged shard."""
        return self._rows.read(indices)

    def verify(self) -> None:
        """Read every byte of the split. Raises InputError that names the first damaged file."""
        self._rows.verify()
