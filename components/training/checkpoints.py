"""Checkpoints of one training run: which to resume from, and states that are written in the background."""

import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from components.foundation import checkpoint
from components.foundation.checkpoint import DamagedCheckpointError
from components.foundation.errors import InputError
from components.training.storage import Storage

PREFIX: Final = "checkpoint_"
SCORE: Final = "validation_loss"  # of the averaged weights, in a checkpoint's facts.json; the lowest is the best


@dataclass(frozen=True, slots=True)
class PendingCheckpoint:
    """A state of a training run that is not written yet."""

    storage: Storage
    name: str
    state: Mapping[str, Any]
    facts: Mapping[str, Any]
    written: threading.Event = field(default_factory=threading.Event)  # set after `write`, also if it failed

    def write(self) -> None:
        """Write the checkpoint. Raise InputError if the disk is full or the storage cannot be reached.

        Call this once, in any thread.
        """
        try:
            if self.storage.folder is not None:
                self._save(self.storage.folder)
                return
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
                self._save(Path(folder))
                self.storage.upload(Path(folder, self.name), self.name)
        finally:
            self.written.set()

    def _save(self, folder: Path) -> None:
        try:
            checkpoint.save(folder / self.name, self.state, self.facts)
        except (OSError, RuntimeError) as error:  # torch.save turns an OSError into a RuntimeError
            free, needed = shutil.disk_usage(folder).free, num_bytes(self.state)
            if free > needed:
                raise
            written = self.storage.names(PREFIX)
            resume = f"resume from {written[-1]}" if written else "start again, as there is no earlier checkpoint"
            raise InputError(
                f"the checkpoint of step {self.facts['step']} needs {needed / 2**20:.0f} MiB, but the disk of {folder} "
                f"has only {free / 2**20:.0f} MiB free; free some space and run the same command again to {resume}"
            ) from error


class CheckpointManager:
    """Finds the newest intact checkpoint in a storage, and prepares new ones. Ray Train deletes old ones."""

    def __init__(self, storage: Storage, identity: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Only a checkpoint with the same `identity` can be resumed; `notes` are stored but not compared."""
        self.storage, self.identity = storage, identity
        self._notes = notes
        self._written = threading.Event()  # of the last prepared checkpoint; not the checkpoint, which holds the state
        self._written.set()

    def newest(self, warn: Callable[[str], None]) -> tuple[str, dict[str, Any]] | None:
        """Return the name and the state of the newest undamaged checkpoint, or None. Call `warn` for each damaged one.

        Remove partial checkpoints of killed processes. Raise InputError if a checkpoint has another identity than this
        training run, or if the storage cannot be reached.
        """
        if self.storage.folder is not None:
            for partial in self.storage.folder.glob(f".{PREFIX}*"):
                shutil.rmtree(partial, ignore_errors=True)
        for name in reversed(self.storage.names(PREFIX)):
            try:
                return name, self.load(name)
            except DamagedCheckpointError as error:
                warn(f"{error}; using the previous checkpoint instead")
        return None

    def load(self, name: str) -> dict[str, Any]:
        """Return the state of a checkpoint. Raise DamagedCheckpointError or InputError as `checkpoint.load` does."""
        with self.storage.local(name) as folder:
            return checkpoint.load(folder, self.identity, f"{self.storage}/{name}")

    def wait(self) -> None:
        """Wait until the last prepared checkpoint is written or has failed. Its state is not held any longer then."""
        self._written.wait()

    def prepare(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> PendingCheckpoint:
        """Return the checkpoint of this step. Its `write` can run in another thread, so the state must be a copy."""
        facts = {**self._notes, **self.identity, "step": step, SCORE: metrics.get(SCORE)}
        pending = PendingCheckpoint(self.storage, self._unused_name(step), state, facts)
        self._written = pending.written
        return pending

    def _unused_name(self, step: int) -> str:
        """Return a name for this step's checkpoint. A damaged one keeps its own, because Ray Train will delete it."""
        name, used = f"{PREFIX}{step:09d}", self.storage.names(PREFIX)
        others = (f"{name}_{number}" for number in itertools.count(2))
        return next(one for one in itertools.chain([name], others) if one not in used)


def num_bytes(state: Any) -> int:
    """Return the total size of all tensors in a state, in bytes."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(num_bytes(part) for part in parts)
