"""Shards: the rows of one tensor in several files, written atomically, hashed in a manifest, read by memory map.

A folder of shards holds `<split>-<index>.safetensors` files and `manifest.json`. The shards' indices give the order of
the rows. The folder's bytes do not depend on when, where or by how many workers they were written.
"""

import bisect
import itertools
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.foundation import config
from components.foundation.config import Config
from components.foundation.errors import InputError, reason, writing
from components.foundation.files import sha256, write_json
from components.foundation.settings.ranges import Count, Whole

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
MANIFEST: Final = "manifest.json"
AGAIN: Final = "rerun the stage that wrote this folder (`dvc repro --force STAGE`)"  # advice in error messages
_TENSOR: Final = "rows"
_HEAD: Final = 256  # bytes before the rows: the header's length (8 bytes), the header in JSON, padding
_TYPES: Final = {torch.uint8: "U8", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Shard(Config):
    """One file of rows: its entry in the manifest."""

    split: Split
    index: Whole
    file: str
    rows: Count
    bytes: Count
    sha256: str


class Manifest(Config):
    """Content of a folder of shards. Subclasses add the settings or the cache key that it was made with."""

    shards: tuple[Shard, ...]
    counts: dict[Split, Whole]  # split -> number of rows
    files: dict[str, str]  # other file that belongs to the content -> sha256

    @property
    def hash(self) -> str:
        """Hash of the manifest: equal for equal content made with equal settings."""
        return config.fingerprint(self)


M = TypeVar("M", bound=Manifest)


class Spool:
    """A shard being written: appended rows go to disk at once and do not stay in memory."""

    def __init__(self, path: Path, split: Split, index: int, file: BinaryIO) -> None:
        """Write to `file`, which is open and empty; `close` renames it to `path`."""
        self._path, self._split, self._index, self._file = path, split, index, file
        self._kind: tuple[tuple[int, ...], torch.dtype] | None = None  # shape and dtype, which all rows share
        self.rows = 0

    def append(self, rows: Shaped[Tensor, "b ..."]) -> None:
        """Append rows. Raises ValueError for another shape or dtype than earlier rows, OSError if writing fails."""
        kind = tuple(rows.shape[1:]), rows.dtype
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ValueError(f"rows of {kind} cannot be appended to a shard of {self._kind}")
        self._file.seek(self._end())
        for row in rows:
            self._file.write(_bytes(row.contiguous()).data)
        self.rows += len(rows)

    def back(self, rows: int) -> None:
        """Discard all rows but the first `rows`."""
        self.rows = rows

    def close(self) -> Shard:
        """Write the safetensors header, rename the file and return the shard's manifest entry.

        Raises ValueError if the shard has no row, OSError if writing fails.
        """
        if self._kind is None:
            raise ValueError("a shard needs at least one row")
        shape, dtype = self._kind
        end = self._end()
        entry = {"dtype": _TYPES[dtype], "shape": [self.rows, *shape], "data_offsets": [0, end - _HEAD]}
        head = json.dumps({_TENSOR: entry}, separators=(",", ":")).encode().ljust(_HEAD - 8)
        self._file.truncate(end)
        self._file.seek(0)
        self._file.write(struct.pack("<Q", len(head)) + head)
        self._file.close()
        digest = sha256(Path(self._file.name))
        os.replace(self._file.name, self._path)
        return Shard(
            split=self._split, index=self._index, file=self._path.name, rows=self.rows, bytes=end, sha256=digest
        )

    def _end(self) -> int:
        shape, dtype = self._kind or ((0,), torch.uint8)
        return _HEAD + self.rows * math.prod(shape) * dtype.itemsize


@contextmanager
def spool(folder: Path, split: Split, index: int) -> Iterator[Spool]:
    """Provide a spool for folder/<split>-<index>.safetensors; remove its partial file unless the spool was closed.

    Raises InputError if the shard cannot be written.
    """
    path = folder / f"{split}-{index:05d}.safetensors"
    aside = path.with_name(f".{path.name}.partial")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield Spool(path, split, index, file)
        finally:
            aside.unlink(missing_ok=True)


def write_rows(out: Path, split: Split, index: int, rows: Shaped[Tensor, "b ..."]) -> Shard:
    """Write rows that are in memory as a shard and return it. Raises InputError if it cannot be written."""
    with spool(out, split, index) as spooled:
        spooled.append(rows)
        return spooled.close()


def some(path: Path, rows: Iterable[int]) -> Iterator[Shaped[Tensor, "1 ..."]]:
    """Yield the rows of a shard with these indices, one at a time."""
    with safe_open(path, framework="pt") as file:
        stored = file.get_slice(_TENSOR)
        for row in rows:
            yield stored[row : row + 1]


def place(path: Path, folder: Path) -> None:
    """Hard-link a shard into another folder, or copy it if that folder is on another disk.

    The original stays, so no finished shard is lost if the disk is full before the whole folder is written. Raises
    InputError if the folder cannot be written.
    """
    with writing(folder):
        (folder / path.name).unlink(missing_ok=True)
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def replace(path: Path, folder: Path) -> None:
    """Move a shard over the damaged one of the same name in `folder`, atomically.

    If the old shard is a link, such as one into DVC's cache, the link is replaced and its target stays unchanged.
    Raises InputError if the folder cannot be written.
    """
    with writing(folder):
        aside = folder / f".{path.name}.partial"
        shutil.move(path, aside)
        os.replace(aside, folder / path.name)


def damaged(folder: Path, manifest: Manifest) -> list[Shard]:
    """Return the shards that are missing or whose sha256 differs from the manifest. Reads every byte.

    Raises InputError if another file of the folder is damaged, because repairing a shard needs those files.
    """
    for file, stated in manifest.files.items():
        if not (folder / file).is_file() or sha256(folder / file) != stated:
            raise InputError(f"{folder / file} is damaged or missing; {AGAIN}")
    return [
        shard
        for shard in manifest.shards
        if not (folder / shard.file).is_file() or sha256(folder / shard.file) != shard.sha256
    ]


def whole(model: type[Manifest], folder: Path) -> bool:
    """Return whether a folder is complete and every file has the hash in its manifest. Reads every byte."""
    try:
        return not damaged(folder, read_manifest(model, folder))
    except InputError:
        return False


def checked(folder: Path, name: str, digest: str) -> Path:
    """Return the path of a file that a manifest lists. Raises InputError if it is missing or has another sha256."""
    path = folder / name
    try:
        whole = sha256(path) == digest
    except OSError:
        whole = False
    if not whole:
        raise InputError(f"{path} is missing or differs from its manifest; {AGAIN}")
    return path


def ordered(shards: Iterable[Shard | None]) -> tuple[Shard, ...]:
    """Return the shards in the order of their rows, by split and index; None stands for a shard without rows."""
    present = sorted((s for s in shards if s is not None), key=lambda shard: (SPLITS.index(shard.split), shard.index))
    for one, other in itertools.pairwise(present):
        if one.file == other.file:
            raise ValueError(f"two reports name the same shard {one.file}")
    return tuple(present)


def counts(shards: Iterable[Shard]) -> dict[Split, int]:
    """Return the number of rows of each split, 0 for a split without shards."""
    shards = tuple(shards)
    return {split: sum(shard.rows for shard in shards if shard.split == split) for split in SPLITS}


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Write manifest.json, which must be the last file of a folder: a folder without it is unfinished."""
    write_json(out / MANIFEST, {"hash": manifest.hash, **config.plain(manifest)}, sort_keys=True)


def read_manifest(model: type[M], folder: Path) -> M:
    """Return the manifest of a folder. Raises InputError if it is missing, damaged or of another kind."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stated = content.pop("hash")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist; choose another folder, or run `dvc repro` to make it") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{path} is damaged; {AGAIN}") from None
    manifest = config.parse(model, content, where=str(path))
    if manifest.hash != stated:
        raise InputError(f"{path} does not match the hash in it ({stated}), so it was edited or damaged; {AGAIN}")
    return manifest


class Rows:
    """The rows of one split, in the order of its shards. Picklable and safe to read from several threads.

    Opening checks the files' names and sizes. The first read from a shard compares its sha256 and its number of rows
    with the manifest; `verify` compares every file.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Open the rows of a split; each row has the shape `shape`.

        Raises InputError if the split is unknown or empty, or a shard is missing or truncated.
        """
        if split not in SPLITS:
            raise InputError(f"{folder} has no split {split!r}; choose one of {', '.join(SPLITS)}")
        self._folder = folder
        self._files = manifest.files
        self._shards = tuple(shard for shard in manifest.shards if shard.split == split)
        if not self._shards:
            raise InputError(f"the split {split} of {folder} is empty; choose another split or add videos to it")
        self._starts = tuple(itertools.accumulate((shard.rows for shard in self._shards), initial=0))
        self._shape = tuple(shape)
        self._dtype = dtype
        self._open: dict[str, Any] = {}
        for shard in self._shards:
            path = folder / shard.file
            if not path.is_file():
                raise InputError(f"{path} is missing; {AGAIN}")
            if path.stat().st_size != shard.bytes:
                raise InputError(f"{path} has {path.stat().st_size} bytes instead of {shard.bytes}; {AGAIN}")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # memory maps cannot be pickled; the new process opens its own

    def locate(self, index: int) -> tuple[Shard, int]:
        """Return the shard of a row and the row's index in that shard. Raises IndexError if there is no such row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        position = bisect.bisect_right(self._starts, index) - 1
        return self._shards[position], index - self._starts[position]

    def read(self, indices: Sequence[int]) -> Shaped[Tensor, "b ..."]:
        """Return the rows `indices`, in this order.

        Raises InputError if a shard is damaged, IndexError if there is no such row.
        """
        rows = torch.empty((len(indices), *self._shape), dtype=self._dtype)
        located = [(*self.locate(int(index)), target) for target, index in enumerate(indices)]
        located.sort(key=lambda item: (item[0].file, *item[1:]))
        for shard, group in itertools.groupby(located, key=lambda item: item[0]):
            stored = self._map(shard)
            for _, row, target in group:
                _bytes(rows[target])[:] = _bytes(stored[row])
        return rows

    def verify(self) -> None:
        """Compare every file of the split with the manifest. Raises InputError that names the first damaged file."""
        for file, stated in (*self._files.items(), *((shard.file, shard.sha256) for shard in self._shards)):
            self._compare(file, stated)

    def _compare(self, file: str, stated: str) -> None:
        path = self._folder / file
        try:
            actual = sha256(path)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; {AGAIN}") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({reason(error)}); {AGAIN}") from None
        if actual != stated:
            raise InputError(f"{path} is damaged: its sha256 is {actual} instead of {stated}; {AGAIN}")

    def _map(self, shard: Shard) -> Any:
        if shard.file not in self._open:
            self._compare(shard.file, shard.sha256)
            path = self._folder / shard.file
            try:
                stored = safe_open(path, framework="pt").get_slice(_TENSOR)
                rows, *shape = stored.get_shape()
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} is damaged ({reason(error)}); {AGAIN}") from None
            if tuple(shape) != self._shape:
                raise InputError(f"{path} holds rows of shape {tuple(shape)} instead of {self._shape}; {AGAIN}")
            if rows != shard.rows:
                raise InputError(f"{path} holds {rows} rows instead of {shard.rows}; {AGAIN}")
            self._open[shard.file] = stored
        return self._open[shard.file]


def _bytes(row: Shaped[Tensor, "..."]) -> UInt8[np.ndarray, "..."]:
    # numpy copies on the calling thread. A torch copy would start a second team of OpenMP threads for the reader
    # thread. With more threads than cores, GNU OpenMP stops spinning at barriers: training ran at 75 % of its speed
    return row.view(torch.uint8).numpy()
