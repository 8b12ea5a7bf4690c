"""What a model sees of the words of clips, cached as latents are: hidden states of a text, or a one at a label's place.

A row of the cache belongs to the clip of that number in its split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from components.config import Config, fingerprint
from components.data import shards
from components.data.latents import refuse_stale
from components.data.shards import SPLITS
from components.errors import InputError

SHARD, BATCH = 256, 32  # clips
Encode = Callable[[Sequence[str]], Float[Tensor, "b l i"]]


@runtime_checkable
class Encoder(Protocol):
    """Captions or labels in, a sequence of vectors for each out; texts and labels alike."""

    @property
    def identity(self) -> str:
        """Equal words become equal vectors where this is equal."""
        ...

    def __call__(self, words: Sequence[str], /) -> Float[Tensor, "b l i"]:
        """Raises InputError for words that it does not know."""
        ...


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

    words: str  # sha256 of the words of all clips
    encoder: str  # its identity


class ConditionsManifest(shards.Manifest):
    """What a folder of conditions holds, and what it was made of."""

    key: ConditionKey
    shape: tuple[int, int]  # l, i of a row


def write(out: Path, words: Mapping[str, Sequence[str]], encode: Encode, key: ConditionKey) -> dict[str, float]:
    """Encodes the words of every clip into shards, and lists them in manifest.json; returns what was written."""
    written, shape = [], (0, 0)
    for split in SPLITS:
        for index, start in enumerate(range(0, len(words[split]), SHARD)):
            rows = torch.cat(list(_encoded(words[split][start : start + SHARD], encode)))
            shape = (rows.shape[1], rows.shape[2])
            written.append(shards.write_rows(out, split, index, rows))
    present = shards.ordered(written)
    manifest = ConditionsManifest(shards=present, counts=shards.counts(present), files={}, key=key, shape=shape)
    shards.write_manifest(out, manifest)
    return {f"conditions_{split}": float(count) for split, count in manifest.counts.items()}


def _encoded(words: Sequence[str], encode: Encode) -> Iterator[Float[Tensor, "b l i"]]:
    for start in range(0, len(words), BATCH):
        yield encode(words[start : start + BATCH])


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
