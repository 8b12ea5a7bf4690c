"""Checkpoints of one training run: which to resume from, and copies of the state that are written in the background."""

import itertools
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from components.foundation import checkpoint
from components.foundation.checkpoint import DamagedCheckpointError
from components.foundation.errors import InputError

PREFIX: Final = "checkpoint_"
SCORE: Final = "validation_loss"  # of the averaged weights, in a checkpoint's facts.json; the lowest is the best


@dataclass(frozen=True, slots=True)
class PendingCheckpoint:
    """A copy of the state of a training run that is not on disk yet."""

    path: Path
    state: Mapping[str, Any]
    facts: Mapping[str, Any]
    written: threading.Event = field(default_factory=threading.Event)  # set after `write`, also if it failed

    def write(self) -> None:
        """Write the checkpoint. Raise InputError if the disk is full. Call this once, in any thread."""
        try:
            checkpoint.save(self.path, self.state, self.facts)
        except (OSError, RuntimeError) as error:  # torch.save turns an OSError into a RuntimeError
            folder = self.path.parent
            free, needed = shutil.disk_usage(folder).free, num_bytes(self.state)
            if free > needed:
                raise
            written = paths(folder)
            resume = f"resume from {written[-1].name}" if written else "start again, as there is no earlier checkpoint"
            raise InputError(
                f"the checkpoint of step {self.facts['step']} needs {needed / 2**20:.0f} MiB, but the disk of {folder} "
                f"has only {free / 2**20:.0f} MiB free; free some space and run the same command again to {resume}"
            ) from error
        finally:
            self.written.set()


class CheckpointManager:
    """Finds the newest intact checkpoint in a folder, and prepares new ones. Ray Train deletes old ones."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Only a checkpoint with the same `identity` can be resumed; `notes` are stored but not compared."""
        self.folder, self.identity = folder, identity
        self._notes = notes
        self._written = threading.Event()  # of the last prepared checkpoint; not the checkpoint, which holds the state
        self._written.set()

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest undamaged checkpoint and its state, or None. Call `warn` for each damaged one.

        Remove partial checkpoints of killed processes. Raise InputError if a checkpoint has another identity than this
        training run.
        """
        for partial in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(partial, ignore_errors=True)
        for path in reversed(paths(self.folder)):
            try:
                return path, checkpoint.load(path, self.identity)
            except DamagedCheckpointError as error:
                warn(f"{error}; using the previous checkpoint instead")
        return None

    def prepare(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> PendingCheckpoint:
        """Copy the state of this step; `write` of the result can run in another thread while training continues.

        Wait for the previous checkpoint if it is still being written, so that at most one copy is in memory.
        """
        self._written.wait()
        facts = {**self._notes, **self.identity, "step": step, SCORE: metrics.get(SCORE)}
        pending = PendingCheckpoint(self._unused(step), copy_to_cpu(state), facts)
        self._written = pending.written
        return pending

    def _unused(self, step: int) -> Path:
        """Return a path for this step's checkpoint. A damaged one keeps its own, because Ray Train will delete it."""
        path = self.folder / f"{PREFIX}{step:09d}"
        others = (path.with_name(f"{path.name}_{number}") for number in itertools.count(2))
        return next(one for one in itertools.chain([path], others) if not one.exists())


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, by increasing step."""
    return sorted(folder.glob(f"{PREFIX}[0-9]*"))  # not checkpoint_manager_snapshot.json of Ray Train


def copy_to_cpu(state: Any) -> Any:
    """Return the state with every tensor copied to the CPU, so that training can continue during the write."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copy_to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copy_to_cpu(value) for value in state)
    return state


def num_bytes(state: Any) -> int:
    """Return the total size of all tensors in a state, in bytes."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(num_bytes(part) for part in parts)
