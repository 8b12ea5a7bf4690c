"""`python -m benchmarks.training_overhead`: a step of the stage `train` beside one of a bare loop on the same tensors.

The bare loop runs before and after the stage's training, with batches that lie in memory. The stage reads them from
disk, trains through Ray, logs and writes a checkpoint half way. Both must end with equal weights. Ray's start is apart:
it is the same for a minute of training and for a week. Run it on a machine that does nothing else.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

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

COLUMNS = ("case", "step ms", "to the bare loop", "seconds in all", "seconds before the first step")
WARM = 5  # steps that are not counted, at the beginning of each
Batches = list[tuple[tuple[int, ...], Tensor]]
Weights = dict[str, Tensor]


def bare(model: Any, recipe: RecipeConfig, batches: Batches) -> tuple[list[float], Weights]:
    """What one would write without any of this: the moments at which steps begin, and the averaged weights."""
    optimizer, averaged = build_optimizer(model, recipe), build_ema(model, recipe.ema)
    schedule = build_schedule(optimizer, recipe)
    marks = []
    for step, (samples, latents) in enumerate(batches):
        marks.append(time.perf_counter())
        stream = Stream.of(recipe.seed, samples, latents.device).fork("step", step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            losses = model(latents, model.draw(latents, stream))
        losses.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        if step % recipe.log_every == 0:
            losses.total.item()
    return marks, dict(averaged.module.state_dict())


def marked(make: Callable[..., tuple[Training, Data]], path: Path, *arguments: object) -> tuple[Training, Data]:
    """The same training, which writes down the moments at which it asks for a batch."""
    training, data = make(*arguments)

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        marks = []
        for batch in data.batches(start):
            marks.append(time.perf_counter())
            if len(marks) == training.config.steps:
                path.write_text(json.dumps(marks))
            yield batch

    return training, replace(data, batches=batches)


def staged(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> tuple[list[float], Weights, float, float]:
    """The stage's own training: its moments, weights, and when it was asked for and done."""
    from pipeline import cluster, fitting, train

    (phase,) = recipe.parts()
    job = train.job_of(train.Params(model=config, recipe=recipe), phase, train.Source(folder, None), None)
    job = replace(job, make=functools.partial(marked, job.make, folder / "marks.json"))
    asked = time.perf_counter()
    with cluster.connect(Path.cwd()):
        fitted = fitting.fit(job, lambda metrics, step: None)
        weights = checkpoint.read_weights(fitted.weights)
    done = time.perf_counter()
    fitting.clear(job)
    return json.loads((folder / "marks.json").read_text()), weights, asked, done


def tensors(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> Batches:
    """Every batch of a training, in memory."""
    from pipeline import cluster, train, workers

    alone = workers.Worker(0, 1, cluster.device(), nn.Identity(), None)
    (phase,) = recipe.parts()
    _, data = train.make(config, phase, train.Source(folder, None), None, None, alone)
    return [(samples, latents.to(alone.device)) for samples, latents in data.batches(0)]


def row(case: str, marks: list[float], beside: float, asked: float, done: float) -> dict[str, Value]:
    """A line: the median over the steps, and what was spent before the first."""
    step = _step(marks)
    return dict(zip(COLUMNS, (case, 1000 * step, step / beside, done - asked, marks[0] - asked), strict=True))


def _step(marks: list[float]) -> float:
    return median(after - before for before, after in zip(marks[WARM:], marks[WARM + 1 :], strict=False))


def rows(config: CanvasMARConfig, recipe: RecipeConfig, folder: Path) -> list[dict[str, Value]]:
    """The bare loop, the stage, and the bare loop once more. Raises RuntimeError if their weights differ."""
    write(folder, 64, (config.temporal.window, 2 * config.latent[0], *config.latent[1:]), 32)
    batches = tensors(config, recipe, folder)
    found = []
    for case in ("bare loop", "stage", "bare loop again"):
        if case == "stage":
            found.append((case, *staged(config, recipe, folder)))
            continue
        torch.manual_seed(derive(recipe.seed, "model"))
        model = config.build().train().to(batches[0][1].device)
        asked = time.perf_counter()
        marks, weights = bare(model, recipe, batches)
        found.append((case, marks, weights, asked, time.perf_counter()))
    first = found[0][2]
    if not all(torch.equal(first[name].cpu(), weights[name].cpu()) for _, _, weights, *_ in found for name in first):
        raise RuntimeError("the stage and the bare loop ended with different weights: they did not do the same work")
    beside = (_step(found[0][1]) + _step(found[2][1])) / 2
    return [row(case, marks, beside, asked, done) for case, marks, _, asked, done in found]


def benchmark(given: argparse.Namespace) -> Table:
    """All three rows."""
    run = choices.read(given, (2,))
    torch.set_num_threads(os.cpu_count() or 1)  # as the stage's worker
    config = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    steps = 20 if run.quick else given.steps
    changes = {
        "steps": steps, "batch": run.batches[0], "workers": 1, "precision": run.dtype, "start": None, "phases": (),
        "micro_batch": None, "validation_clips": 0, "validate_every": steps, "checkpoint_every": steps // 2,
    }  # fmt: skip
    recipe = choices.entry(given.size, RecipeConfig, "recipes", "model").model_copy(update=changes)
    with tempfile.TemporaryDirectory() as name:
        lines = rows(config, recipe, Path(name))
    facts: dict[str, Value] = {"steps": steps, "batch": recipe.batch, "log every": recipe.log_every}
    return Table("Training overhead", facts, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """Those of all benchmarks, and the number of steps."""
    known = choices.parser("What the stage adds to a training step.")
    known.add_argument("--steps", type=int, default=300, help="of each; 20 if --quick")
    return known


if __name__ == "__main__":
    choices.run(options(), benchmark)
