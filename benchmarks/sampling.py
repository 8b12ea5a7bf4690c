"""`python -m benchmarks.sampling`: time to the first frame and to a whole clip, and the effect of each setting.

Times are medians over repeats. Each repeat runs every case once, so that changes in machine load affect all rows alike.
Weights are untrained, which does not change the cost.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import arithmetic, choices, clock
from benchmarks.arithmetic import Operations
from benchmarks.choices import Choices
from benchmarks.table import Table, Value
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models import flow
from components.models.canvasmar.model import CanvasMAR, CanvasMARConfig
from components.models.canvasmar.temporal_vit import Memory
from components.sampling import frame as sampling
from components.sampling.frame import Frame, SamplerConfig, sample_frames
from components.sampling.rollout import rollout

CONTEXT = 1  # latent frames
BASELINE, RECOMPUTED = "random order, no canvas", "Temporal ViT recomputed"
LAUNCHED = "kernels launched one by one"
COLUMNS = (
    "case", "batch", "sets", "branches", "evaluations", "first frame ms", "clip ms",
    *arithmetic.COLUMNS, "floor ms", "times the floor", "faster than baseline", "faster than recomputed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: a model, its sampler and the batch size.

    `remembers`: the Temporal ViT keeps a memory instead of recomputing the history. `replays`: a GPU may replay CUDA
    graphs.
    """

    name: str
    model: CanvasMARConfig
    sampler: SamplerConfig
    batch: int
    remembers: bool = True
    replays: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds to the first frame and to the last frame."""

    first: float
    clip: float


def cases(
    model: CanvasMARConfig, guided: SamplerConfig, fast: SamplerConfig, batch: int, sets: tuple[int, ...], gpu: bool
) -> list[Case]:
    """Return the references, then cases that change one setting at a time; only cases named `guided` use guidance."""
    plain = model.model_copy(update={"canvas": None})
    alone = {"temporal_scale": 1.0, "canvas_scale": 1.0}
    one = guided.model_copy(update=alone)
    tokens = model.latent[1] * model.latent[2]
    baseline = one.model_copy(update={"sets": min(64, tokens), "order": "random"})
    evaluations = flow.evaluations(fast.flow_steps, fast.solver)
    heun = one.model_copy(update={"solver": "heun", "flow_steps": max(1, evaluations // 2)})
    return [
        Case(BASELINE, plain, baseline, batch),
        Case(RECOMPUTED, model, one, batch, remembers=False),
        *([Case(LAUNCHED, model, one, batch, replays=False)] if gpu else []),
        *(Case("canvas", model, one.model_copy(update={"sets": count}), batch) for count in sets if count <= tokens),
        Case("no canvas", plain, one, batch),
        Case("guided", model, guided, batch),
        Case("heun", model, heun, batch),
        Case("fast", model, fast.model_copy(update=alone), batch),
        Case("fast, guided", model, fast, batch),
    ]


@torch.no_grad()
def recompute(
    model: CanvasMAR, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, sampler: SamplerConfig
) -> Iterator[Frame]:
    """Yield the frames of `rollout` within the window, running the Temporal ViT over the whole history each time."""
    latents = context
    for index in range(frames):
        previous = latents[:, -2:][:, 0]
        memory = Memory(latents.shape[1], (), model.temporal(latents)[:, -1], latents[:, -1], previous)
        (frame,) = sample_frames(model, memory, stream.fork("frame", index), sampler)
        yield frame
        latents = torch.cat([latents, frame.latent[:, None]], dim=1)


def work(case: Case, frames: int) -> Operations:
    """Return the operations of sampling all videos of a case, by part of the model."""
    config, batch = case.model, case.batch
    if case.remembers:
        history = [arithmetic.remembered(config, batch, 0, CONTEXT + frames - 1)]
    else:
        history = [arithmetic.recomputed(config, batch, CONTEXT + index) for index in range(frames)]
    return arithmetic.add(*history, *[arithmetic.sampled(config, case.sampler, batch)] * frames)


def launched(compute: Callable[..., Tensor], model: CanvasMAR, *values: object) -> Tensor:
    """Return the result of `run_graphed` without recording a CUDA graph."""
    return compute(model, *values)


def time(model: CanvasMAR, case: Case, frames: int, run: Choices) -> Timing:
    """Time one rollout of a case."""
    device = run.device
    context = torch.randn(case.batch, CONTEXT, *case.model.latent, device=device)
    stream = Stream.of(0, range(case.batch), device)
    roll: Callable[..., Iterator[Frame]] = rollout if case.remembers else recompute
    marks = [clock.now(device)]
    with run.precision(), nullcontext() if case.replays else patch.object(sampling, "run_graphed", launched):
        for _ in roll(model, context, frames, stream, case.sampler):
            marks.append(clock.now(device))
    return Timing(marks[1] - marks[0], marks[-1] - marks[0])


def measure(several: list[Case], frames: int, run: Choices) -> list[Timing | None]:
    """Return the median timing of each case, or None if the device runs out of memory."""
    # the weights keep requires_grad: autocast caches converted weights only if they require a gradient
    with run.device:  # initialising weights on a GPU is many times faster
        models = {case.model: case.model.build().eval() for case in several}
    timings: dict[int, list[Timing]] = {}
    gpu = run.device.type == "cuda"
    for number, case in enumerate(several):
        try:
            short = replace(case, sampler=case.sampler.model_copy(update={"flow_steps": 1}))
            # warm-up; on a GPU the second call records the CUDA graph
            time(models[case.model], case if gpu else short, 2 if gpu else 1, run)
            timings[number] = []
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    for _ in range(run.repeats):
        for number, taken in timings.items():
            taken.append(time(models[several[number].model], several[number], frames, run))
    return [
        Timing(median(each.first for each in timings[number]), median(each.clip for each in timings[number]))
        if number in timings
        else None
        for number in range(len(several))
    ]


def rows(several: list[Case], frames: int, run: Choices, rate: float) -> list[dict[str, Value]]:
    """Return the rows of the table for cases of one batch size; `rate` is in FLOP/s."""
    print(f"batch {several[0].batch}: {len(several)} cases, {run.repeats} repeats", file=sys.stderr, flush=True)
    timings = measure(several, frames, run)
    clips = {case.name: None if timing is None else timing.clip for case, timing in zip(several, timings, strict=True)}
    lines = []
    for case, timing in zip(several, timings, strict=True):
        operations = work(case, frames)
        floor = sum(operations.values()) / rate
        evaluations = flow.evaluations(case.sampler.flow_steps, case.sampler.solver)
        line: dict[str, Value] = {
            **dict.fromkeys(COLUMNS),
            "case": case.name,
            "batch": case.batch,
            "sets": case.sampler.sets,
            "branches": arithmetic.branches(case.model, case.sampler),
            "evaluations": evaluations,
            **arithmetic.columns(operations),
            "floor ms": 1000 * floor,
        }
        if timing is not None:
            line |= {"first frame ms": 1000 * timing.first, "clip ms": 1000 * timing.clip}
            line["times the floor"] = timing.clip / floor
            for column, reference in (("baseline", BASELINE), ("recomputed", RECOMPUTED)):
                seconds = clips[reference]
                line[f"faster than {column}"] = None if seconds is None else seconds / timing.clip
        lines.append(line)
    return lines


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table of all cases at every batch size. Raises InputError for --frames below 1."""
    run = choices.read(given, (1, 4) if given.quick else (1, 4, 16))
    model = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    guided, fast = (choices.entry("kuka", SamplerConfig, "samplers", row) for row in ("default", "fast"))
    sets = (2, 4, 8) if given.quick else (2, 4, 8, 16, 32, 64)
    whole = 2 if given.quick else model.temporal.window - CONTEXT
    frames = whole if given.frames is None else given.frames
    if frames < 1:
        raise InputError(f"--frames is {frames}; it must be at least 1")
    rate = run.rate()
    several = [cases(model, guided, fast, batch, sets, run.device.type == "cuda") for batch in run.batches]
    lines = [line for same in several for line in rows(same, frames, run, rate)]
    return Table("Sampling", run.facts(rate) | {"latent frames a clip": frames}, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = choices.parser("Time of sampling, and the effect of each setting.")
    parser.add_argument("--frames", type=int, help="latent frames to sample; default: training clip minus context")
    return parser


if __name__ == "__main__":
    choices.run(options(), benchmark)
