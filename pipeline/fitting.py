"""A training as the stages start it: the loop on every worker, its checkpoints, its metrics, its weights at the end."""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import checkpoint
from components.config import fingerprint
from components.training import loop
from components.training.loop import Data, Progress, Training
from pipeline import cluster
from pipeline.cluster import Worker

STORAGE = Path(".state") / "training"  # resumable state lies outside of every stage's outputs


@dataclass(frozen=True, slots=True)
class FitJob:
    """What is trained: how a worker makes its part of it, and what its checkpoints belong to."""

    label: str
    make: Callable[[Worker], tuple[Training, Data]]
    facts: Mapping[str, Any]  # a checkpoint with other facts is refused
    workers: int
    steps: int

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
    """Trains, from the last checkpoint on if there is one; the run's folder is kept until `clear`."""
    outcome = cluster.train(
        functools.partial(_work, job, STORAGE.resolve()),
        workers=job.workers,
        steps=job.steps,
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
    with worker.resume() as folder:
        if folder is not None:
            state = checkpoint.load(folder, job.facts)
            training.restore(state["training"])
            history = state["history"]
    for progress in loop.fit(training, data):
        worker.post(progress.step, progress.metrics)
        if progress.metrics:
            history.append({"step": progress.step, **progress.metrics})
        if progress.state is not None:
            worker.report(progress.metrics, functools.partial(_write, job, progress, history))
    weights = storage / job.name / checkpoint.WEIGHTS
    if worker.rank == 0:
        checkpoint.save_weights(weights, training.weights())
    return {"weights": str(weights), "history": history}


def _write(job: FitJob, progress: Progress, history: list[dict[str, float]], folder: Path) -> None:
    assert progress.state is not None
    checkpoint.save(folder, {"training": progress.state(), "history": history}, job.facts)
