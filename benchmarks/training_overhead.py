"""`python -m benchmarks.training_overhead`: overhead of the stage `train` over a bare training loop.

Two processes alternate in turns of 25 steps, so that changes in machine load affect both alike. The bare loop has its
batches in memory. The stage reads them from disk, trains through Ray, logs to MLflow and writes checkpoints, all
within its turns. Both must end with equal weights. Two costs are reported separately: the startup time of Ray, which
does not grow with the length of training, and the CPU load of the stage's other processes. That load slows both sides
here, but would not slow a bare loop by itself.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks import choices
from benchmarks.loader import write
from benchmarks.table import Table, Value
from components.foundation import checkpoint, devices
from components.foundation.randomness import Stream, derive
from components.models.canvasmar.model import CanvasMARConfig
from components.training.loop import Data, Training, Worker
from components.training.optimizer import RecipeConfig, build_ema, build_optimizer, build_schedule

COLUMNS = ("case", "step ms", "to the bare loop", "first quartile", "third quartile")
TURN = 25  # steps, one log interval
WARM = 1  # warm-up turns of each process, not counted
GO = b"."
T = TypeVar("T")


class Turns:
    """Turns of one of two processes; a turn begins when the turn of the other has ended. Their times are recorded."""

    def __init__(self, folder: Path, name: str, other: str, *, first: bool) -> None:
        """Open the FIFOs `name` and `other` in `folder`, which must exist. Times are written to `<name>.json`."""
        # with O_RDWR, opening does not block until the other process opens the FIFO
        self._mine, self._other = (os.open(folder / whose, os.O_RDWR) for whose in (name, other))
        self._record, self._first = folder / f"{name}.json", first
        self._marks: list[tuple[float, float]] = []
        self._began = 0.0

    def begin(self) -> None:
        """Wait until the other process has ended its turn, except before the first turn of all."""
        if self._marks or not self._first:
            os.read(self._mine, 1)
        self._began = time.time()  # a clock that the processes of a machine share

    def end(self) -> None:
        """Record the turn and let the other process begin."""
        self._marks.append((self._began, time.time()))
        self._record.write_text(json.dumps({"process": os.getpid(), "turns": self._marks}), encoding="utf-8")
        os.write(self._other, GO)

    def around(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches. The request for the next batch ends a turn; the end of the last turn is not recorded."""
        for step in itertools.count():
            if step % TURN == 0:
                if step:
                    self.end()
                self.begin()
            yield next(batches)


def tensors(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> list[tuple[tuple[int, ...], Tensor]]:
    """Return all batches of a training as sample ids and tensors in memory."""
    from pipeline import train

    alone = Worker(0, 1, devices.device(), nn.Identity())
    (phase,) = recipe.resolved_phases()
    _, data = train.make(config, phase, train.TrainingSource(folder, None), None, None, alone)
    return [(samples, latents.to(alone.device)) for samples, latents in data.batches(0)]


def bare(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> None:
    """Train with a minimal loop in its own process and write the averaged weights to `folder`."""
    torch.set_num_threads(os.cpu_count() or 1)  # as in the worker of the stage
    batches = tensors(config, recipe, folder)
    torch.manual_seed(derive(recipe.seed, "model"))
    model: Any = config.build().train().to(batches[0][1].device)
    optimizer, averaged = build_optimizer(model, recipe), build_ema(model, recipe.ema)
    schedule = build_schedule(optimizer, recipe)
    turns = Turns(folder, "bare", "stage", first=False)
    for step, (samples, latents) in zip(range(recipe.steps), turns.around(iter(batches)), strict=False):
        stream = Stream.of(recipe.seed, samples, latents.device).fork("step", step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            losses = model(latents, model.draw(latents, stream))
        losses.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        if (step + 1) % recipe.log_every == 0:
            losses.total.item()
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, averaged.module.state_dict())


def in_turns(make: Callable[..., tuple[Training, Data]], folder: Path, *arguments: object) -> tuple[Training, Data]:
    """Return the training of the stage with batches that are yielded in turns."""
    training, data = make(*arguments)
    turns = Turns(folder, "stage", "bare", first=True)
    return training, replace(data, batches=lambda start: turns.around(data.batches(start)))


class Bystanders:
    """CPU usage of the stage's processes, except the training worker and the bare loop."""

    def __init__(self, record: Path, other: int) -> None:
        """Measure in the `with` block, as soon as the worker has recorded a turn in the file `record`."""
        self._record, self._other, self._over = record, other, threading.Event()
        self._seen: list[tuple[float, dict[int, float]]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Bystanders":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def cores(self) -> float | None:
        """Return the mean number of busy cores; None if the block was too short to measure it."""
        if len(self._seen) < 2:
            return None
        (began, before), (ended, after) = self._seen
        return sum(after[process] - used for process, used in before.items() if process in after) / (ended - began)

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with suppress(OSError, ValueError):  # the file does not exist yet or is being written
                trains = json.loads(self._record.read_text(encoding="utf-8"))["process"]
                self._seen[1 if self._seen else 0 :] = [(time.perf_counter(), self._used({trains, self._other}))]

    @staticmethod
    def _used(without: set[int]) -> dict[int, float]:
        """Return the CPU seconds of each process so far, by pid."""
        import psutil

        me, used = psutil.Process(), {}
        for process in [me, *me.children(recursive=True)]:
            if process.pid not in without:
                with suppress(psutil.Error):  # the process has ended
                    used[process.pid] = sum(process.cpu_times()[:2])
        return used


def staged(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path, other: int) -> tuple[Path, float, float | None]:
    """Train through the stage; return the weights file, the start time and the cores its other processes used."""
    from components.telemetry import tracking
    from pipeline import train
    from pipeline.fitting import trainer
    from pipeline.runtime import cluster

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    (phase,) = recipe.resolved_phases()
    job = train.job_of(config, phase, train.TrainingSource(folder, None), None)
    job = replace(job, make=functools.partial(in_turns, job.make, folder))
    trainer.clear(job)  # discard the progress of an interrupted benchmark
    asked = time.time()
    bystanders = Bystanders(folder / "stage.json", other)
    with tracking.run("training overhead", root=folder, tags={}, parameters={}) as log, cluster.connect(Path.cwd()):
        with bystanders:
            fitted = trainer.fit(job, log.metrics)
        weights = fitted.weights.rename(folder / "stage.safetensors")
    trainer.clear(job)
    return weights, asked, bystanders.cores()


def measure(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> tuple[dict[str, Value], list[Any]]:
    """Return facts and rows of the table. Raises RuntimeError if both processes end with different weights."""
    write(folder, 64, (config.temporal.window, 2 * config.latent[0], *config.latent[1:]), 32)
    for name in ("bare", "stage"):
        os.mkfifo(folder / name)
    loop = multiprocessing.get_context("spawn").Process(target=bare, args=(config, recipe, folder), daemon=True)
    loop.start()
    assert loop.pid is not None
    weights, asked, cores = staged(config, recipe, folder, loop.pid)
    with (folder / "bare").open("wb") as fifo:
        fifo.write(GO)  # lets the bare loop run its last turn
    loop.join()
    of_stage, of_bare = (checkpoint.read_weights(path) for path in (weights, folder / checkpoint.WEIGHTS))
    if any(not torch.equal(of_stage[name], of_bare[name].cpu()) for name in of_stage):
        raise RuntimeError(
            "the stage and the bare loop ended with different weights, so their times are not comparable"
        )
    turns = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["turns"] for name in ("stage", "bare")]
    mine, others = ([end - began for began, end in of_one[WARM:]] for of_one in turns)
    ratios = [one / other for one, other in zip(mine, others, strict=True)]
    first, _, third = quantiles(ratios, n=4)
    return {
        "seconds before the first step": turns[0][0][0] - asked,
        "cores that the stage's other processes take": cores,
        "turns of each": len(ratios),
    }, [
        dict(zip(COLUMNS, ("bare loop", 1000 * median(others) / TURN, 1.0, None, None), strict=True)),
        dict(zip(COLUMNS, ("stage", 1000 * median(mine) / TURN, median(ratios), first, third), strict=True)),
    ]


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table of the stage and the bare loop."""
    run = choices.read(given, (2,))
    config = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    steps = TURN * (4 if run.quick else given.turns)
    changes = {
        "steps": steps, "batch": run.batches[0], "workers": 1, "precision": run.dtype, "new_weights": (), "phases": (),
        "micro_batch": None, "log_every": TURN, "validation_clips": 0, "validate_every": steps,
        "checkpoint_every": steps // 2 - TURN // 2,  # in the middle of a turn
    }  # fmt: skip
    recipe = choices.entry(given.size, RecipeConfig, "recipes", "model").model_copy(update=changes)
    with tempfile.TemporaryDirectory() as name:
        facts, lines = measure(config, recipe, Path(name))
    return Table("Training overhead", {"batch": recipe.batch, "steps a turn": TURN, **facts}, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """Return the parser with the shared options and --turns."""
    known = choices.parser("Overhead of the stage per training step.")
    known.add_argument(
        "--turns", type=int, default=20, help="turns per process, first and last not counted; 4 if --quick"
    )
    return known


if __name__ == "__main__":
    choices.run(options(), benchmark)
