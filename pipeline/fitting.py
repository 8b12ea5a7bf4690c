"""A training as the stages start it: the loop on every worker, its checkpoints, its metrics, its weights at the end."""

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import checkpoint
from components.config import fingerprint
from components.training import loop
from components.training.keeper import Keeper
from components.training.loop import Data, Training
from components.training.optimizer import RecipeConfig
from pipeline import stage, workers
from pipeline.workers import Worker

TOLD_EVERY = 1.0  # seconds; every message costs both processes a millisecond of a core that computes
STORAGE = Path(".state") / "training"  # resumable state lies outside of every stage's outputs


@dataclass(frozen=True, slots=True)
class FitJob:
    """What is trained: how a worker makes its part of it, and what its checkpoints belong to."""

    label: str
    make: Callable[[Worker], tuple[Training, Data]]
    recipe: RecipeConfig
    facts: Mapping[str, Any]  # a checkpoint with other facts is never gone on from
    notes: Mapping[str, Any]  # written down in a checkpoint, not compared: such as the commit

    @property
    def name(self) -> str:
        """The run's folder: other facts, another folder."""
        return f"{self.label.replace(' ', '-')}-{fingerprint(self.facts)}"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training leaves behind."""

    weights: Path  # the averaged ones
    history: list[dict[str, float]]


def fit(job: FitJob, log: Callable[[Mapping[str, float], int], None]) -> Fitted:
    """Trains, from the last checkpoint on if there is one; the run's folder is kept until `clear`.

    Raises InputError if another process of this machine is at the same training.
    """
    with stage.alone(STORAGE / f"{job.name}.lock", job.label):
        outcome = workers.train(
            functools.partial(_work, job, STORAGE.resolve()),
            team=job.recipe.team,
            steps=job.recipe.steps,
            storage=STORAGE,
            name=job.name,
            label=job.label,
            log=log,
        )
    return Fitted(Path(outcome["weights"]), outcome["history"])


def clear(job: FitJob) -> None:
    """Deletes the state of a finished training, so that it is not gone on with by mistake."""
    shutil.rmtree(STORAGE / job.name, ignore_errors=True)


def _work(job: FitJob, storage: Path, worker: Worker) -> Mapping[str, Any]:
    training, data = job.make(worker)
    history: list[dict[str, float]] = []
    first, folder = worker.rank == 0, storage / job.name
    with Keeper(folder, job.facts, job.notes, job.recipe.keep) as keeper:
        state = _resume(keeper, job, worker)
        if state is not None:
            training.restore(state["training"])
            history = state["history"]
            if first:
                worker.warn(f"goes on from the checkpoint of step {training.step}, workers: {worker.world}")
        told = 0.0
        for progress in loop.fit(training, data, worker.stopping):
            if progress.metrics or time.monotonic() > told + TOLD_EVERY:
                told = time.monotonic()
                worker.post(progress.step, progress.metrics)
            if progress.metrics:
                history.append({"step": progress.step, **progress.metrics})
            keeper.check(wait=False)
            if progress.state is not None:
                content = {"training": progress.state(), "history": history}  # every worker gives its part of it
                if first:
                    keeper.write(progress.step, content, progress.metrics)
    if training.step < job.recipe.steps:
        return {"stopped": training.step}
    path, weights = folder / checkpoint.WEIGHTS, training.weights()
    if first:
        checkpoint.save_weights(path, weights)
    return {"weights": str(path), "history": history}


def _resume(keeper: Keeper, job: FitJob, worker: Worker) -> dict[str, Any] | None:
    """The state to go on from: the first worker looks, and all take the one that it found."""
    path, state = (keeper.newest(worker.warn) if worker.rank == 0 else None) or (None, None)
    found = worker.agree(path)
    return checkpoint.load(found, job.facts) if worker.rank and found is not None else state
