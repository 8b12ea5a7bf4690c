"""Cached conditions: each clip's caption, label or actions, encoded as a sequence of vectors for the model.

Row i of the cache belongs to clip i of its split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from components.datasets import shards
from components.datasets.latents import refuse_stale
from components.datasets.shards import SPLITS
from components.foundation.config import Config, fingerprint
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count

SHARD, BATCH = 256, 32  # clips
Annotation = Sequence[str] | Float[Tensor, "_ f _"]  # captions, labels or actions of some clips
Encode = Callable[[Any], Float[Tensor, "b l i"]]


@runtime_checkable
class Encoder(Protocol):
    """Encoder of captions, labels or actions: a sequence of vectors per clip."""

    @property
    def identity(self) -> str:
        """Encoder hash: encoders with equal hashes return equal vectors."""
        ...

    def __call__(self, annotations: Any, /) -> Float[Tensor, "b l i"]:
        """Return the vectors of each clip. Raises InputError for annotations that the encoder cannot encode."""
        ...


class Labels:
    """One-hot encoder of labels: one vector per clip."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Set the classes in the order of their indices. Raises InputError if a class is named twice."""
        if len(set(classes)) < len(classes):
            repeated = next(name for index, name in enumerate(classes) if name in classes[:index])
            raise InputError(f"the class {repeated} is listed twice; list each class once")
        self.classes = tuple(classes)

    @property
    def identity(self) -> str:
        """Encoder hash: depends on the classes and their order."""
        return fingerprint({"classes": list(self.classes)})

    def __call__(self, words: Sequence[str]) -> Float[Tensor, "b 1 i"]:
        """Return the one-hot vectors of these labels. Raises InputError for a label that is not a known class."""
        if unknown := sorted(set(words) - set(self.classes)):
            known = ", ".join(self.classes)
            raise InputError(
                f"unknown label {unknown[0]!r}; the classes are {known}: correct the label or add it to the classes"
            )
        indices = torch.tensor([self.classes.index(label) for label in words])
        return torch.nn.functional.one_hot(indices, len(self.classes)).float()[:, None]


class ConditionKey(Config):
    """Cache key of encoded conditions."""

    annotations: str  # sha256 of the annotation file of all clips
    encoder: str  # the encoder's hash, `Encoder.identity`


class ConditionsManifest(shards.Manifest):
    """Manifest of a folder of conditions."""

    key: ConditionKey
    shape: tuple[Count, Count]  # l, i of a row
    transitions: bool  # whether a row's l vectors belong to the transitions between l + 1 latent frames


def write(out: Path, annotations: Mapping[str, Annotation], encode: Encode, key: ConditionKey) -> dict[str, float]:
    """Encode the annotations of every clip and write them as shards with a manifest.json.

    `annotations` maps each split to its clips' annotations. Returns the number of rows of each split as metrics. Raises
    InputError if a file cannot be written, and the errors of `encode`.
    """
    written, shape = [], (0, 0)
    for split in SPLITS:
        for index, start in enumerate(range(0, len(annotations[split]), SHARD)):
            rows = torch.cat(list(_encoded(annotations[split][start : start + SHARD], encode)))
            shape = (rows.shape[1], rows.shape[2])
            written.append(shards.write_rows(out, split, index, rows))
    present = shards.ordered(written)
    manifest = ConditionsManifest(
        shards=present,
        counts=shards.counts(present),
        files={},
        key=key,
        shape=shape,
        transitions=any(isinstance(part, Tensor) for part in annotations.values()),
    )
    shards.write_manifest(out, manifest)
    return {f"conditions_{split}": float(count) for split, count in manifest.counts.items()}


def _encoded(annotations: Annotation, encode: Encode) -> Iterator[Float[Tensor, "_ l i"]]:
    for start in range(0, len(annotations), BATCH):
        yield encode(annotations[start : start + BATCH])


class Conditions:
    """The conditions of one split, read through a memory map; row i belongs to clip i of the split."""

    def __init__(self, folder: Path, manifest: ConditionsManifest, split: str) -> None:
        self.key, self.hash, self.shape = manifest.key, manifest.hash, manifest.shape
        self.transitions = manifest.transitions
        self._rows = shards.Rows(folder, manifest, split, manifest.shape, torch.float32)

    @classmethod
    def open(cls, folder: Path, split: str, expect: ConditionKey | None) -> "Conditions":
        """Open the conditions of a split; their cache key must equal `expect` unless that is None.

        Raises InputError if the key differs, the manifest is missing or damaged, a shard is missing or truncated, or
        the split is unknown or empty.
        """
        manifest = shards.read_manifest(ConditionsManifest, folder)
        if expect is not None:
            refuse_stale(folder, manifest.key, expect, "conditions")
        return cls(folder, manifest, split)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> Float[Tensor, "b l i"]:
        """Return the rows `indices`, in this order. Raises InputError if a shard is damaged."""
        return self._rows.read(indices)

    def verify(self) -> None:
        """Compare every file of the split with the manifest. Raises InputError that names the first damaged file."""
        self._rows.verify()
