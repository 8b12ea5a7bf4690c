"""Annotations of clips: captions or labels, actions, both or none."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jaxtyping import Float
from torch import Tensor

from components.datasets import actions, captions, shards
from components.foundation.errors import writing


@dataclass(frozen=True, slots=True)
class Annotations:
    """Annotations of a batch of clips; a field is None if the data set has no such annotation."""

    words: Sequence[str] | None  # the caption or the label of each clip
    actions: Float[Tensor, "b f i"] | None  # one vector per pixel frame

    def __getitem__(self, rows: slice) -> "Annotations":
        """Return the annotations of a slice of the clips."""
        return Annotations(
            None if self.words is None else self.words[rows], None if self.actions is None else self.actions[rows]
        )

    def repeated(self, times: int) -> "Annotations":
        """Return the annotations with each clip repeated `times` times in a row: a, a, b, b, ..."""
        return Annotations(
            None if self.words is None else [one for one in self.words for _ in range(times)],
            None if self.actions is None else self.actions.repeat_interleave(times, dim=0),
        )


NONE: Final = Annotations(None, None)


def of(folder: Path, files: Mapping[str, str], split: str, indices: Sequence[int]) -> Annotations:
    """Return the annotations of the clips `indices` of a split.

    `files` are those that the folder's manifest lists. Raises InputError if a file is missing or damaged.
    """
    labels, vectors = captions.of(folder, files), actions.of(folder, files)
    return Annotations(
        None if labels is None else [labels[split][index] for index in indices],
        None if vectors is None else vectors.splits[split][list(indices)],
    )


def carry(folder: Path, files: Mapping[str, str], out: Path) -> dict[str, str]:
    """Copy the annotation files of `folder` to `out`. Return the manifest entries: file name -> sha256.

    Raises InputError if a file is missing, damaged or cannot be written.
    """
    present = {name: files[name] for name in (captions.FILE, actions.FILE) if name in files}
    for name, digest in present.items():
        with writing(out / name):
            shutil.copyfile(shards.checked(folder, name, digest), out / name)
    return present
