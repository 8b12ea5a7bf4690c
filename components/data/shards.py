"""Rows of one tensor in a few files: written whole or not at all, listed with their sha256, read by memory map.

A folder of shards holds `<split>-<index>.safetensors` files and `manifest.json`. The order of rows is that of the
shards' indices; nothing in the folder depends on when, where or by how many workers it was written.
"""

import bisect
import hashlib
import itertools
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components import config
from components.config import Config
from components.errors import InputError

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
MANIFEST: Final = "manifest.json"
_TENSOR: Final = "rows"
_HEAD: Final = 256  # bytes before the rows: eight of its own length, the description, blanks
_TYPES: Final = {torch.uint8: "U8", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Shard(Config):
    """One file of rows, as the manifest lists it."""

    split: Split
    index: int
    file: str
    rows: int
    bytes: int
    sha256: str


class Manifest(Config):
    """What a folder of shards holds; its owner adds how it was made."""

    shards: tuple[Shard, ...]
    counts: dict[Split, int]  # rows of each split
    files: dict[str, str]  # the other files that belong to the content, and their sha256

    @property
    def hash(self) -> str:
        """Equal content, made alike: equal hash."""
        return config.fingerprint(self)


M = TypeVar("M", bound=Manifest)


class Spool:
    """A shard whose rows are appended as they come: none of them stays in memory."""

    def __init__(self, path: Path, split: Split, index: int, file: BinaryIO) -> None:
        """`file` is open and empty, and takes the place of `path` in the end."""
        self._path, self._split, self._index, self._file = path, split, index, file
        self._kind: tuple[tuple[int, ...], torch.dtype] | None = None  # of the first row, and so of all
        self.rows = 0

    def append(self, rows: Shaped[Tensor, "b ..."]) -> None:
        """Rows after those that are there. Raises ValueError for another shape or type, OSError."""
        kind = tuple(rows.shape[1:]), rows.dtype
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ValueError(f"rows of {kind} in a shard of {self._kind}")
        self._file.seek(self._end())
        for row in rows:
            self._file.write(_bytes(row.contiguous()).data)
        self.rows += len(rows)

    def back(self, rows: int) -> None:
        """Forget all rows but the first so many."""
        self.rows = rows

    def close(self) -> Shard:
        """The shard, in its place and described: what safetensors reads. Raises ValueError without a row, OSError."""
        if self._kind is None:
            raise ValueError("a shard needs rows")
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
    """The shard folder/<split>-<index>.safetensors in the making; without its `close` nothing is left of it.

    Raises InputError if it cannot be written.
    """
    path = folder / f"{split}-{index:05d}.safetensors"
    aside = path.with_name(f".{path.name}.partial")
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield Spool(path, split, index, file)
        finally:
            aside.unlink(missing_ok=True)


def write_rows(out: Path, split: Split, index: int, rows: Shaped[Tensor, "b ..."]) -> Shard:
    """Rows that are there already as a shard. Raises InputError if it cannot be written."""
    with spool(out, split, index) as spooled:
        spooled.append(rows)
        return spooled.close()


def some(path: Path, rows: Iterable[int]) -> Iterator[Shaped[Tensor, "1 ..."]]:
    """These rows of a shard, one at a time."""
    with safe_open(path, framework="pt") as file:
        stored = file.get_slice(_TENSOR)
        for row in rows:
            yield stored[row : row + 1]


def place(path: Path, folder: Path) -> None:
    """A shard in another folder too, as a link, or as a copy on another disk. Raises InputError if it cannot be.

    It stays where it was: until all of a folder is written, a full disk must not cost what is there already.
    """
    with _writing(folder):
        (folder / path.name).unlink(missing_ok=True)
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def replace(path: Path, folder: Path) -> None:
    """Move a shard over a damaged one of the same name, which goes only now; a link to it is cut, not followed."""
    with _writing(folder):
        aside = folder / f".{path.name}.partial"
        shutil.move(path, aside)
        os.replace(aside, folder / path.name)


def damaged(folder: Path, manifest: Manifest) -> list[Shard]:
    """The shards that are missing or not what the manifest says, every byte looked at.

    Raises InputError if another file of the folder is damaged, which no shard can be made again without.
    """
    for file, stated in manifest.files.items():
        if not (folder / file).is_file() or sha256(folder / file) != stated:
            raise InputError(f"{folder / file} is damaged or missing; make its folder again")
    return [
        shard
        for shard in manifest.shards
        if not (folder / shard.file).is_file() or sha256(folder / shard.file) != shard.sha256
    ]


def write_text(path: Path, text: str) -> str:
    """Write a text file, whole or not at all, and return its sha256. Raises InputError if it cannot."""
    aside = path.with_name(f".{path.name}.partial")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8", newline="")
        os.replace(aside, path)
    return sha256(path)


def write_json(path: Path, content: Mapping[str, Any]) -> str:
    """Write a JSON file, whole or not at all, and return its sha256."""
    return write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full or read-only disk as one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written ({_told(error)}); make room there or give permission") from None


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ordered(shards: Iterable[Shard | None]) -> tuple[Shard, ...]:
    """Shards by split and index, those without a file left out: the order in which their rows count."""
    present = sorted((s for s in shards if s is not None), key=lambda shard: (SPLITS.index(shard.split), shard.index))
    for one, other in itertools.pairwise(present):
        if one.file == other.file:
            raise ValueError(f"two reports tell of the same shard {one.file}")
    return tuple(present)


def counts(shards: Iterable[Shard]) -> dict[Split, int]:
    """Rows of each split; a split without rows counts zero."""
    shards = tuple(shards)
    return {split: sum(shard.rows for shard in shards if shard.split == split) for split in SPLITS}


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Write manifest.json, the last file of a folder: what has no manifest is not finished."""
    write_json(out / MANIFEST, {"hash": manifest.hash, **config.plain(manifest)})


def read_manifest(model: type[M], folder: Path) -> M:
    """The manifest of a folder. Raises InputError if it is missing, damaged or of another kind."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stated = content.pop("hash")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist; name a finished folder or run the stage that makes it") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{path} is damaged; make its folder again") from None
    manifest = config.parse(model, content, where=str(path))
    if manifest.hash != stated:
        raise InputError(f"{path} does not match its own hash {stated}; it was changed by hand: make its folder again")
    return manifest


class Rows:
    """The rows of one split, in the order of its shards.

    Opening looks at names and sizes of the files. A shard's sha256 and its number of rows are compared with the
    manifest when the first of its rows is read; `verify` looks at every file. It may be pickled, and read from several
    threads.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """`shape` is that of one row. Raises InputError: unknown or empty split, shard missing or cut short."""
        if split not in SPLITS:
            raise InputError(f"{folder} has no split {split!r}; choose one of {', '.join(SPLITS)}")
        self._folder = folder
        self._files = manifest.files
        self._shards = tuple(shard for shard in manifest.shards if shard.split == split)
        if not self._shards:
            raise InputError(f"the split {split} of {folder} is empty; choose another split or give it videos")
        self._starts = tuple(itertools.accumulate((shard.rows for shard in self._shards), initial=0))
        self._shape = tuple(shape)
        self._dtype = dtype
        self._open: dict[str, Any] = {}
        for shard in self._shards:
            path = folder / shard.file
            if not path.is_file():
                raise InputError(f"{path} is missing; make its folder again")
            if path.stat().st_size != shard.bytes:
                raise InputError(f"{path} has {path.stat().st_size} bytes instead of {shard.bytes}; make it again")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a memory map belongs to its process

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of a row, and its place in it. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        position = bisect.bisect_right(self._starts, index) - 1
        return self._shards[position], index - self._starts[position]

    def read(self, indices: Sequence[int]) -> Shaped[Tensor, "b ..."]:
        """These rows, in this order. Raises InputError for a damaged shard, IndexError for a row that is not there."""
        rows = torch.empty((len(indices), *self._shape), dtype=self._dtype)
        located = [(*self.locate(int(index)), target) for target, index in enumerate(indices)]
        located.sort(key=lambda place: (place[0].file, *place[1:]))
        for shard, group in itertools.groupby(located, key=lambda place: place[0]):
            stored = self._map(shard)
            for _, row, target in group:
                _bytes(rows[target])[:] = _bytes(stored[row])
        return rows

    def verify(self) -> None:
        """Read every byte. Raises InputError that names the first damaged file."""
        for file, stated in (*self._files.items(), *((shard.file, shard.sha256) for shard in self._shards)):
            self._compare(file, stated)

    def _compare(self, file: str, stated: str) -> None:
        path = self._folder / file
        try:
            found = sha256(path)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; make its folder again") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({_told(error)}); make its folder again") from None
        if found != stated:
            raise InputError(f"{path} is damaged: its sha256 is {found} instead of {stated}; make its folder again")

    def _map(self, shard: Shard) -> Any:
        if shard.file not in self._open:
            self._compare(shard.file, shard.sha256)
            path = self._folder / shard.file
            try:
                stored = safe_open(path, framework="pt").get_slice(_TENSOR)
                rows, *shape = stored.get_shape()
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} is damaged ({_told(error)}); make its folder again") from None
            if tuple(shape) != self._shape:
                told = f"{tuple(shape)} instead of {self._shape}"
                raise InputError(f"{path} holds rows of shape {told}; make its folder again")
            if rows != shard.rows:
                raise InputError(f"{path} holds {rows} rows instead of {shard.rows}; make its folder again")
            self._open[shard.file] = stored
        return self._open[shard.file]


def _bytes(row: Shaped[Tensor, "..."]) -> UInt8[np.ndarray, "..."]:
    # numpy copies on the calling thread. A copy by torch would start OpenMP threads for this reader's thread too, and
    # with more threads than cores GNU OpenMP no longer spins at barriers: training went at three quarters of its speed
    return row.view(torch.uint8).numpy()
