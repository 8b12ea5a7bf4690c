"""`python -m benchmarks.training_overhead`: a step of the stage `train` beside one of a bare loop on the same tensors.

Two processes take turns of 25 steps, so that a machine which is slower in one minute than in the next is so for both.
The bare loop's batches lie in memory. The stage reads them from disk, trains through Ray, logs to MLflow and writes
checkpoints within its turns. Both must end with equal weights. Apart stand what Ray takes to start, the same for a
minute of training and for a week, and what the stage's other processes compute meanwhile: here both sides suffer from
it, and a bare loop by itself would not.
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
from components import checkpoint
from components.models.canvasmar import CanvasMARConfig
from components.randomness import Stream, derive
from components.training.ema import build_ema
from components.training.loop import Data, Training
from components.training.optimizer import RecipeConfig, build_optimizer, build_schedule

COLUMNS = ("case", "step ms", "to the bare loop", "first quartile", "third quartile")
TURN = 25  # steps, an interval of the log
WARM = 1  # turns of each at the beginning that are not counted
GO = b"."
T = TypeVar("T")


class Turns:
    """The turns of one of two processes: each begins when the other's has ended, and is written down."""

    def __init__(self, folder: Path, name: str, other: str, *, first: bool) -> None:
        """The folder holds a FIFO for each, and gets a ledger. Raises OSError if it does not."""
        # open in both directions, so that neither waits for the other to open it too
        self._mine, self._other = (os.open(folder / whose, os.O_RDWR) for whose in (name, other))
        self._ledger, self._first = folder / f"{name}.json", first
        self._marks: list[tuple[float, float]] = []
        self._began = 0.0

    def begin(self) -> None:
        """Waits for the end of the other's turn, if there was one."""
        if self._marks or not self._first:
            os.read(self._mine, 1)
        self._began = time.time()  # which all processes of a machine share

    def end(self) -> None:
        """Lets the other begin."""
        self._marks.append((self._began, time.time()))
        self._ledger.write_text(json.dumps({"process": os.getpid(), "turns": self._marks}), encoding="utf-8")
        os.write(self._other, GO)

    def around(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; a turn ends when one more is asked for, and the last one's end is not told."""
        for step in itertools.count():
            if step % TURN == 0:
                if step:
                    self.end()
                self.begin()
            yield next(batches)


def tensors(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> list[tuple[tuple[int, ...], Tensor]]:
    """Every batch of a training, in memory."""
    from pipeline import cluster, train, workers

    alone = workers.Worker(0, 1, cluster.device(), nn.Identity(), None)
    (phase,) = recipe.parts()
    _, data = train.make(config, phase, train.Source(folder, None), None, None, alone)
    return [(samples, latents.to(alone.device)) for samples, latents in data.batches(0)]


def bare(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> None:
    """What one would write without any of this, in a process of its own; leaves the averaged weights."""
    torch.set_num_threads(os.cpu_count() or 1)  # as the stage's worker
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
    """The stage's training, whose batches come in turns."""
    training, data = make(*arguments)
    turns = Turns(folder, "stage", "bare", first=True)
    return training, replace(data, batches=lambda start: turns.around(data.batches(start)))


class Bystanders:
    """What the stage's processes compute, without the one that trains and the bare loop."""

    def __init__(self, ledger: Path, other: int) -> None:
        """`ledger` is that of the process that trains; counted from its first turn's end on, while the block lasts."""
        self._ledger, self._other, self._over = ledger, other, threading.Event()
        self._seen: list[tuple[float, dict[int, float]]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Bystanders":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def cores(self) -> float | None:
        """How many cores they kept busy on average; None if there was no time to see it."""
        if len(self._seen) < 2:
            return None
        (began, before), (ended, after) = self._seen
        return sum(after[process] - used for process, used in before.items() if process in after) / (ended - began)

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with suppress(OSError, ValueError):  # the ledger is not there yet, or is just being written
                trains = json.loads(self._ledger.read_text(encoding="utf-8"))["process"]
                self._seen[1 if self._seen else 0 :] = [(time.perf_counter(), self._used({trains, self._other}))]

    @staticmethod
    def _used(without: set[int]) -> dict[int, float]:
        """Seconds of processors that each has taken so far."""
        import psutil

        me, used = psutil.Process(), {}
        for process in [me, *me.children(recursive=True)]:
            if process.pid not in without:
                with suppress(psutil.Error):  # it is gone
                    used[process.pid] = sum(process.cpu_times()[:2])
        return used


def staged(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path, other: int) -> tuple[Path, float, float | None]:
    """The stage's own training: its weights, when it was asked for, and the cores that its other processes took."""
    from components import tracking
    from pipeline import cluster, fitting, train

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    (phase,) = recipe.parts()
    job = train.job_of(train.Params(model=config, recipe=recipe), phase, train.Source(folder, None), None)
    job = replace(job, make=functools.partial(in_turns, job.make, folder))
    fitting.clear(job)  # an interrupted benchmark is not gone on with
    asked = time.time()
    bystanders = Bystanders(folder / "stage.json", other)
    with tracking.run("training overhead", root=folder, tags={}, parameters={}) as log, cluster.connect(Path.cwd()):
        with bystanders:
            fitted = fitting.fit(job, log.metrics)
        weights = fitted.weights.rename(folder / "stage.safetensors")
    fitting.clear(job)
    return weights, asked, bystanders.cores()


def measure(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> tuple[dict[str, Value], list[Any]]:
    """Facts and rows. Raises RuntimeError if the two end with different weights."""
    write(folder, 64, (config.temporal.window, 2 * config.latent[0], *config.latent[1:]), 32)
    for name in ("bare", "stage"):
        os.mkfifo(folder / name)
    loop = multiprocessing.get_context("spawn").Process(target=bare, args=(config, recipe, folder), daemon=True)
    loop.start()
    assert loop.pid is not None
    weights, asked, cores = staged(config, recipe, folder, loop.pid)
    with (folder / "bare").open("wb") as fifo:
        fifo.write(GO)  # its last turn
    loop.join()
    of_stage, of_bare = (checkpoint.read_weights(path) for path in (weights, folder / checkpoint.WEIGHTS))
    if any(not torch.equal(of_stage[name], of_bare[name].cpu()) for name in of_stage):
        raise RuntimeError("the stage and the bare loop ended with different weights: they did not do the same work")
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
    """Both rows."""
    run = choices.read(given, (2,))
    config = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    steps = TURN * (4 if run.quick else given.turns)
    changes = {
        "steps": steps, "batch": run.batches[0], "workers": 1, "precision": run.dtype, "start": None, "phases": (),
        "micro_batch": None, "log_every": TURN, "validation_clips": 0, "validate_every": steps,
        "checkpoint_every": steps // 2 - TURN // 2,  # within a turn
    }  # fmt: skip
    recipe = choices.entry(given.size, RecipeConfig, "recipes", "model").model_copy(update=changes)
    with tempfile.TemporaryDirectory() as name:
        facts, lines = measure(config, recipe, Path(name))
    return Table("Training overhead", {"batch": recipe.batch, "steps a turn": TURN, **facts}, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """Those of all benchmarks, and the number of turns."""
    known = choices.parser("What the stage adds to a training step.")
    known.add_argument("--turns", type=int, default=20, help="of each, first and last not counted; 4 if --quick")
    return known


if __name__ == "__main__":
    choices.run(options(), benchmark)
