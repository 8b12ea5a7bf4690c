"""Checkpoints of one training run: which to keep, which to resume from, and a background thread that writes them."""

import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from torch import Tensor

from components.foundation import checkpoint
from components.foundation.checkpoint import DamagedCheckpointError
from components.foundation.errors import InputError

PREFIX: Final = "checkpoint_"
SCORE: Final = "validation_loss"  # of the averaged weights, in a checkpoint's facts.json; the lowest is the best


class CheckpointManager:
    """Keeps the newest `keep` checkpoints and the best one, and writes them while training continues.

    Use it as a context manager: on exit it waits until the last checkpoint is written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], notes: Mapping[str, Any], keep: int) -> None:
        """Only a checkpoint with the same `identity` can be resumed; `notes` are stored but not compared."""
        self.folder, self.identity, self.keep = folder, identity, keep
        self._notes = notes
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending_write: Future[None] | None = None

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest undamaged checkpoint and its state, or None. Call `warn` for each damaged one.

        Remove partial checkpoints of killed processes. Raise InputError if a checkpoint has another identity than this
        training run.
        """
        for partial in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(partial, ignore_errors=True)
        for path in reversed(self._paths()):
            try:
                return path, checkpoint.load(path, self.identity)
            except DamagedCheckpointError as error:
                warn(f"{error}; using the previous checkpoint instead")
        return None

    def write(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copy the state now, and write it as the checkpoint of this step in the background.

        Wait for the previous checkpoint if it is still being written, and raise the error of its writing, if any.
        """
        self.check(wait=True)
        metadata = {**self._notes, **self.identity, "step": step, SCORE: metrics.get(SCORE)}
        self._pending_write = self._executor.submit(self._write, step, copy_to_cpu(state), metadata)

    def check(self, *, wait: bool) -> None:
        """Raise the error of the last write, if any: InputError if the disk is full. `wait` for a write in progress."""
        if self._pending_write is not None and (wait or self._pending_write.done()):
            pending, self._pending_write = self._pending_write, None
            pending.result()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True)
        if error is None:
            self.check(wait=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{PREFIX}*"))

    def _write(self, step: int, state: dict[str, Any], metadata: Mapping[str, Any]) -> None:
        path = self.folder / f"{PREFIX}{step:09d}"
        try:
            checkpoint.save(path, state, metadata)
        except (OSError, RuntimeError) as error:  # torch.save turns an OSError into a RuntimeError
            free, needed = shutil.disk_usage(self.folder).free, num_bytes(state)
            if free > needed:
                raise
            written = self._paths()
            resume = f"resume from {written[-1].name}" if written else "start again, as there is no earlier checkpoint"
            raise InputError(
                f"the checkpoint of step {step} needs {needed / 2**20:.0f} MiB, but the disk of {self.folder} has only "
                f"{free / 2**20:.0f} MiB free; free some space and run the same command again to {resume}"
            ) from error
        self._prune()

    def _prune(self) -> None:
        paths = self._paths()
        best = min(reversed(paths), key=_score)  # the newest one if none has a validation loss
        for path in set(paths[: -self.keep]) - {best}:
            removed = path.with_name(f".{path.name}.gone")
            path.rename(removed)  # a process killed during removal must not leave a partial checkpoint under its name
            shutil.rmtree(removed)


def _score(path: Path) -> float:
    try:
        score = checkpoint.facts_of(path).get(SCORE)
    except DamagedCheckpointError:
        score = None
    return math.inf if score is None else float(score)


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
