"""The checkpoints of one training: which are kept, which one it goes on from, and a thread that writes them."""

import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from torch import Tensor

from components import checkpoint
from components.checkpoint import DamagedCheckpointError
from components.errors import InputError

PREFIX: Final = "checkpoint_"
SCORE: Final = "validation_loss"  # of the averaged weights, among the facts of a checkpoint; the lowest is the best


class Keeper:
    """Keeps the newest few checkpoints and the best one; writing goes on beside the training.

    Use it as a context: at its end it waits until the last checkpoint stands.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], notes: Mapping[str, Any], keep: int) -> None:
        """`facts` must be those of a checkpoint that is gone on from; `notes` are only written down beside them."""
        self.folder, self.keep = folder, keep
        self._facts, self._notes = facts, notes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state; damaged ones are named and passed over.

        What a killed process left half written is removed. Raises InputError if one belongs to something else.
        """
        for left in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        for path in reversed(self._all()):
            try:
                return path, checkpoint.load(path, self._facts)
            except DamagedCheckpointError as error:
                warn(f"{error}; the one before it is taken")
        return None

    def write(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """A checkpoint of this step: the state is copied now and written later.

        Waits for the one before it, if that is still being written. Raises what went wrong with it.
        """
        self.check(wait=True)
        facts = {**self._notes, **self._facts, "step": step, SCORE: metrics.get(SCORE)}
        self._writing = self._thread.submit(self._write, step, copied(state), facts)

    def check(self, *, wait: bool) -> None:
        """Raises what went wrong in writing, as InputError where the disk is full; `wait` until it is known."""
        if self._writing is not None and (wait or self._writing.done()):
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.check(wait=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob(f"{PREFIX}*"))

    def _write(self, step: int, state: dict[str, Any], facts: Mapping[str, Any]) -> None:
        path = self.folder / f"{PREFIX}{step:09d}"
        try:
            checkpoint.save(path, state, facts)
        except (OSError, RuntimeError) as error:  # torch's own writer turns the first into the second
            free, needed = shutil.disk_usage(self.folder).free, size(state)
            if free > needed:
                raise
            kept = self._all()
            rest = f"{kept[-1].name} is kept" if kept else "there is none before it"
            raise InputError(
                f"the checkpoint of step {step} takes {needed / 2**20:.0f} MiB, but {self.folder} has only "
                f"{free / 2**20:.0f} MiB left; {rest}: free some space, and the same command goes on from there"
            ) from error
        self._prune()

    def _prune(self) -> None:
        every = self._all()
        best = min(reversed(every), key=_score)  # the newest where none was validated
        for path in set(every[: -self.keep]) - {best}:
            gone = path.with_name(f".{path.name}.gone")
            path.rename(gone)  # so that no half of it is ever taken for a checkpoint
            shutil.rmtree(gone)


def _score(path: Path) -> float:
    try:
        score = checkpoint.facts_of(path).get(SCORE)
    except DamagedCheckpointError:
        score = None
    return math.inf if score is None else float(score)


def copied(state: Any) -> Any:
    """The same state with every tensor copied to the CPU: training may go on and change its own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state


def size(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(size(part) for part in parts)
