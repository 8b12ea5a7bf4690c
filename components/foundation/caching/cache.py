"""Cache, below .state, of values that can be recomputed: partial results, and products that several stages use.

An entry is a folder .state/cache/<stage>/<key> beside the lock file <key>.json. The key is the hash of the stage's
name, its inputs and the code that computes the entry, so results of other code or other inputs are never reused.
Deleting the whole cache is always safe while no stage is running.
"""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import torch
from torch import Tensor

from components.foundation import checkpoint
from components.foundation.config import fingerprint
from components.foundation.errors import writing
from components.foundation.files import sha256, to_json

FOLDER: Final = Path(".state") / "cache"
# unused entries are deleted after this time: unfinished work is lost, and products are computed again when needed
DAYS: Final = 14
# of the cache and the free disk space together, so that at least as much space as the cache is left for outputs
SHARE: Final = 0.5
_LOCK: Final = ".json"
_MAKING: Final = ".making"
_NOTE: Final = ".sha256"
_held: Final[dict[Path, tuple[IO[str], bool]]] = {}  # lock file -> open file, whether the lock is exclusive


@dataclass(frozen=True, slots=True)
class Entry:
    """A cache entry that this process has locked. The lock ends with `release`, `remove` or the process."""

    path: Path

    @property
    def lock(self) -> Path:
        """The lock file; its mtime is the time of the last use."""
        return self.path.with_name(f"{self.path.name}{_LOCK}")

    @property
    def producer_lock(self) -> Path:
        """The lock file of the process that computes the product; it exists only during that time."""
        return self.path.with_name(f"{self.path.name}{_MAKING}")

    def of_other_code(self) -> list[Path]:
        """Return the non-empty entries that other code has computed from the same inputs."""
        own = _content(self.lock)
        locks = [lock for lock in sorted(self.path.parent.glob(f"*{_LOCK}")) if lock != self.lock]
        same = [_folder(lock) for lock in locks if {**_content(lock), "code": None} == {**own, "code": None}]
        return [folder for folder in same if any(folder.glob("*"))]

    def release(self) -> None:
        """Unlock the entry and keep its content."""
        if self.lock in _held:
            os.utime(self.lock)
            _held.pop(self.lock)[0].close()

    def remove(self) -> None:
        """Delete the entry; call this when its content is no longer needed."""
        _delete(self.path)
        self.lock.unlink(missing_ok=True)
        if self.lock in _held:
            _held.pop(self.lock)[0].close()

    def __enter__(self) -> "Entry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache folder. The path is absolute, so that it is the same in every process of a cluster."""

    folder: Path

    @classmethod
    def here(cls) -> "Cache":
        """Return the cache of the project in the current folder."""
        return cls(FOLDER.resolve())

    def entry(self, stage: str, inputs: Mapping[str, Any], code: str) -> Entry:
        """Return the entry of a stage with these inputs, locked exclusively; a missing entry is created empty.

        `inputs` are plain data: hashes of the input files, and settings. `code` is `code.fingerprint` of the module
        that computes the content. Wait if another process has locked the entry. Raise InputError if the disk is full.
        """
        with writing(self.folder):
            return self._locked(stage, inputs, code, exclusive=True)

    def product(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        code: str,
        whole: Callable[[Path], bool],
        make: Callable[[Path], None],
    ) -> Path:
        """Return the folder of a complete product; if `whole(folder)` is false, empty it and call `make(folder)`.

        Several processes can read a product at the same time; only one computes it. The product is not evicted before
        this process ends.
        """
        with writing(self.folder):
            entry = self._locked(stage, inputs, code, exclusive=False)
        if whole(entry.path):
            return entry.path
        # a lock of its own: with an exclusive lock on the entry, a second maker would wait until all readers have ended
        with writing(self.folder):
            producer = _acquire(entry.producer_lock, exclusive=True, stage=stage)
        try:
            if not whole(entry.path):
                _empty(entry.path)
                make(entry.path)
        except BaseException:
            entry.release()
            raise
        finally:
            entry.producer_lock.unlink(missing_ok=True)
            producer.close()
        return entry.path

    def prune(self) -> None:
        """Delete entries unused for DAYS days; then delete the least recently used ones while the cache is too large.

        The cache may take the share SHARE of its own size plus the free disk space. Locked entries are not deleted.
        """
        entries = {lock: _measure(lock) for lock in self.folder.glob(f"*/*{_LOCK}")}
        total, free = sum(size for size, _ in entries.values()), shutil.disk_usage(self.folder).free
        for lock, (size, used) in sorted(entries.items(), key=lambda item: item[1][1]):
            old = used < time.time() - DAYS * 24 * 3600
            if (old or total > SHARE * (total + free)) and _evict(lock):
                total, free = total - size, free + size

    def _locked(self, stage: str, inputs: Mapping[str, Any], code: str, *, exclusive: bool) -> Entry:
        content = {"stage": stage, "inputs": dict(inputs), "code": code}
        entry = Entry(self.folder / stage / fingerprint(content))
        if entry.lock in _held:
            file, alone = _held[entry.lock]
            if (alone or not exclusive) and _is_at(file, entry.lock):
                return entry
            _held.pop(entry.lock)[0].close()
        file = _acquire(entry.lock, exclusive, stage)
        _held[entry.lock] = (file, exclusive)
        try:
            entry.path.mkdir(exist_ok=True)
            if not os.fstat(file.fileno()).st_size:
                with entry.lock.open("r+", encoding="utf-8") as text:  # of two processes, each writes the same bytes
                    text.write(to_json(content, sort_keys=True))
            _prune_once(self)  # which leaves this entry, because it is locked
        except BaseException:
            entry.release()
            raise
        return entry


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into an entry as safetensors, and beside it the file's sha256, which `whole` checks."""
    digest = checkpoint.save_weights(path, tensors)
    note = path.with_name(f"{path.name}{_NOTE}")
    aside = note.with_name(f".{note.name}.{os.getpid()}")
    with writing(path):
        aside.write_text(digest, encoding="utf-8")
        aside.rename(note)


def whole(path: Path) -> bool:
    """Return whether a file has the sha256 that `save` recorded for it."""
    try:
        return path.with_name(f"{path.name}{_NOTE}").read_text(encoding="utf-8") == sha256(path)
    except OSError:
        return False


def digest(tensor: Tensor) -> str:
    """Return a hash of a tensor's shape, dtype and values, for the inputs of an entry."""
    content = hashlib.sha256(repr((tuple(tensor.shape), tensor.dtype)).encode())
    content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()[:32]


@functools.cache
def _prune_once(cache: Cache) -> None:
    """Prune once in each process, when it first uses the cache: later, the stage adds only its own results."""
    cache.prune()


def _acquire(lock: Path, exclusive: bool, stage: str) -> IO[str]:
    """Return the lock file, locked; wait for the process that has it."""
    how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+", encoding="utf-8")
        try:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"  {stage}: waiting for another process, which has locked {lock}", file=sys.stderr, flush=True)
                fcntl.flock(file, how)
            if _is_at(file, lock):
                os.utime(lock)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that had the lock has removed the entry


def _is_at(file: IO[str], lock: Path) -> bool:
    """Return whether an open lock file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _evict(lock: Path) -> bool:
    """Delete the entry of a lock file; return False if a process has locked it."""
    try:
        with lock.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, lock):
                _delete(_folder(lock))
                lock.with_suffix(_MAKING).unlink(missing_ok=True)  # of a process that was killed
                lock.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _delete(folder: Path) -> None:
    """Delete a folder. It is renamed first, so that no incomplete folder is left if the process is killed."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Remove what is in a folder, but not the folder, which other processes may be opening."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _folder(lock: Path) -> Path:
    return lock.with_suffix("")


def _measure(lock: Path) -> tuple[int, float]:
    """Return the size of an entry in bytes, and the time of its last use: the mtime of its newest file."""
    stats = [stat for path in _below(lock) if (stat := _stat(path)) is not None]
    return sum(stat.st_blocks * 512 for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)


def _below(lock: Path) -> Iterator[Path]:
    yield lock
    for folder in (_folder(lock), lock.with_name(f".{lock.stem}.gone")):
        yield folder
        for place, folders, files in os.walk(folder):
            yield from (Path(place) / name for name in (*folders, *files))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # another process has removed it
        return None


def _content(lock: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
