"""`python -m benchmarks.planned`: estimates of the command `plan` against measurements of training, at three sizes.

Work is measured by torch's FLOP counter in real steps. Memory is the peak of allocated tensors in real steps; on a CPU
it comes from torch's profiler, because the size of a process includes freed memory that its allocator keeps. The time
estimate uses the rate of the first steps, as in a training log, for the steps after them, which have other masks. Run
it on an idle machine.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import choices, clock
from benchmarks.choices import Choices
from benchmarks.table import Table, Value
from components.foundation import allocator
from components.models.canvasmar.model import CanvasMARConfig
from components.training.loop import Training
from components.training.optimizer import RecipeConfig
from components.training.plan import plan

COLUMNS = (
    "case", "batch", "parameters M",
    "GFLOP a step", "counted", "ratio of work",
    "memory MB", "taken", "ratio of memory",
    "seconds", "passed", "ratio of time",
)  # fmt: skip
COUNTED = 3  # steps whose FLOP are measured, with other masks than in the plan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """A model, its recipe and the number of timed steps."""

    name: str
    model: CanvasMARConfig
    recipe: RecipeConfig
    steps: int

    @property
    def clip(self) -> tuple[int, ...]:
        """Shape (t, c, h, w) of one clip of latents."""
        return (self.model.temporal.window, *self.model.latent)


def wider(config: CanvasMARConfig) -> CanvasMARConfig:
    """Return the config with twice the width in every part."""
    changed = {
        name: part.model_copy(update={"width": 2 * part.width})
        for name in ("temporal", "canvas", "spatial", "head")
        if (part := getattr(config, name)) is not None
    }
    return config.model_copy(update=changed)


def cases(run: Choices) -> list[Case]:
    """Return the cases: the default size, twice its width, and the size of BAIR; only the first with --quick."""
    default, bair = (choices.entry(size, CanvasMARConfig, "models", "canvas") for size in ("kuka", "bair"))
    recipe = choices.entry("kuka", RecipeConfig, "recipes", "model")
    recipe = recipe.model_copy(update={"workers": 1, "precision": run.dtype})
    small, wide, large = (recipe.model_copy(update={"batch": batch}) for batch in (2, 4, 1))
    if run.quick:
        return [Case("kuka", default, small, 20)]
    several = ("kuka", default, small, 200), ("twice as wide", wider(default), wide, 40), ("BAIR", bair, large, 10)
    return [Case(*one) for one in several]


def training(case: Case, device: torch.device) -> Callable[[], None]:
    """Start a training of this case on clips of noise and return a function that runs its next step."""
    whole = Training(case.model.build().train().to(device), lambda model: model, case.recipe)
    clips = torch.randn(case.recipe.batch, *case.clip, device=device)
    samples = tuple(range(case.recipe.batch))

    def step() -> None:
        whole.update(samples, clips)

    return step


def work(case: Case) -> float:
    """Return the measured FLOP of a training step on the CPU, as a mean over `COUNTED` steps."""
    step = training(case, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        for _ in range(COUNTED):
            step()
    return counter.get_total_flops() / COUNTED


def memory(case: Case, device: torch.device) -> float:
    """Return the peak memory in MB of the tensors of a training."""
    if device.type == "cuda":
        training(case, device)()  # libraries allocate their workspaces in the first step
        clock.forget_peak(device)
        before = torch.cuda.memory_allocated(device)
        _two_steps(case, device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        _two_steps(case, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]") / 1e6


def _two_steps(case: Case, device: torch.device) -> None:
    """Run two steps of a new training, since the optimiser allocates its moments at the end of the first step."""
    step = training(case, device)
    step()
    step()


def seconds(case: Case, device: torch.device) -> tuple[float, float]:
    """Return the seconds of the first tenth of the steps, after two warm-up steps, and of all later steps."""
    allocator.keep()
    step = training(case, device)
    first = max(2, case.steps // 10)
    marks = []
    for _ in range(2 + case.steps):
        marks.append(clock.now(device))
        step()
    marks.append(clock.now(device))
    return marks[2 + first] - marks[2], marks[-1] - marks[2 + first]


def alone(function: Callable[..., T], *arguments: object) -> T:
    """Run the function in a new process and return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()


def row(case: Case, device: torch.device) -> dict[str, Value]:
    """Return one row: estimate, measurement and their ratio for work, memory and time."""
    estimate = plan(case.model.build, torch.zeros(1, *case.clip), case.recipe)
    counted = alone(work, case)
    held = sum(estimate.memory.values()) / 1e6
    taken = alone(memory, case, device)
    began, passed = alone(seconds, case, device)
    first = max(2, case.steps // 10)
    left = case.recipe.model_copy(update={"steps": case.steps - first})
    expected = 3600 * estimate.hours(left, estimate.flops * first / began)
    return {
        "case": case.name,
        "batch": case.recipe.batch,
        "parameters M": sum(estimate.parameters.values()) / 1e6,
        "GFLOP a step": estimate.flops / 1e9,
        "counted": counted / 1e9,
        "ratio of work": estimate.flops / counted,
        "memory MB": held,
        "taken": taken,
        "ratio of memory": held / taken,
        "seconds": expected,
        "passed": passed,
        "ratio of time": expected / passed,
    }


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table of all cases."""
    run = choices.read(given, (1,))
    return Table("Planned and taken", run.facts(run.rate()), COLUMNS, [row(case, run.device) for case in cases(run)])


if __name__ == "__main__":
    choices.run(choices.parser("Estimates of `plan` against measurements of training."), benchmark)
