"""`python -m benchmarks.planned`: what the command `plan` foretells beside what a training then takes, at three sizes.

Work is counted in real steps by torch's counter. Memory is what tensors take in real steps, as the allocator tells it:
on a CPU through torch's profiler, since the size of a process also holds what its heap keeps. Seconds are foretold from
the rate of the first steps, as the log of a training tells it, for the steps after them, which see other masks. Run it
on a machine that does nothing else.
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
from components import heap
from components.models.canvasmar import CanvasMARConfig
from components.training.loop import Training
from components.training.optimizer import RecipeConfig
from components.training.plan import plan

COLUMNS = (
    "case", "batch", "parameters M",
    "GFLOP a step", "counted", "ratio of work",
    "memory MB", "taken", "ratio of memory",
    "seconds", "passed", "ratio of time",
)  # fmt: skip
COUNTED = 3  # steps whose work is counted, with masks that the plan did not see

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """A model, how it is trained, and over how many steps the time is taken."""

    name: str
    model: CanvasMARConfig
    recipe: RecipeConfig
    steps: int

    @property
    def clip(self) -> tuple[int, ...]:
        """The shape of one clip of latents."""
        return (self.model.temporal.window, *self.model.latent)


def wider(config: CanvasMARConfig) -> CanvasMARConfig:
    """The same model, twice as wide."""
    changed = {
        name: part.model_copy(update={"width": 2 * part.width})
        for name in ("temporal", "canvas", "spatial", "head")
        if (part := getattr(config, name)) is not None
    }
    return config.model_copy(update=changed)


def cases(run: Choices) -> list[Case]:
    """The default's size, twice its width, and BAIR's if nothing need be quick."""
    default, bair = (choices.entry(size, CanvasMARConfig, "models", "canvas") for size in ("default", "bair"))
    recipe = choices.entry("default", RecipeConfig, "recipes", "model")
    recipe = recipe.model_copy(update={"workers": 1, "precision": run.dtype})
    small, wide, large = (recipe.model_copy(update={"batch": batch}) for batch in (2, 4, 1))
    if run.quick:
        return [Case("default", default, small, 20)]
    several = ("default", default, small, 200), ("twice as wide", wider(default), wide, 40), ("BAIR", bair, large, 10)
    return [Case(*one) for one in several]


def training(case: Case, device: torch.device) -> Callable[[], None]:
    """A step of a new training of this case on clips of noise, to be called again and again."""
    whole = Training(case.model.build().train().to(device), lambda model: model, case.recipe)
    clips = torch.randn(case.recipe.batch, *case.clip, device=device)
    samples = tuple(range(case.recipe.batch))

    def step() -> None:
        whole.update(samples, clips)

    return step


def work(case: Case) -> float:
    """Operations of a real step on this machine's processors, the mean of a few."""
    step = training(case, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        for _ in range(COUNTED):
            step()
    return counter.get_total_flops() / COUNTED


def memory(case: Case, device: torch.device) -> float:
    """MB that the tensors of a training take at its worst moment."""
    if device.type == "cuda":
        training(case, device)()  # libraries take their own share with the first step
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
    """From nothing: the optimiser has its moments in the second only."""
    step = training(case, device)
    step()
    step()


def seconds(case: Case, device: torch.device) -> tuple[float, float]:
    """Of the first tenth of the steps, after two to warm up, and of all that follow."""
    heap.keep()
    step = training(case, device)
    first = max(2, case.steps // 10)
    marks = []
    for _ in range(2 + case.steps):
        marks.append(clock.now(device))
        step()
    marks.append(clock.now(device))
    return marks[2 + first] - marks[2], marks[-1] - marks[2 + first]


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What the function returns in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()


def row(case: Case, device: torch.device) -> dict[str, Value]:
    """A line: each foretold, taken, and the first over the second."""
    foretold = plan(case.model.build, torch.zeros(1, *case.clip), case.recipe)
    counted = alone(work, case)
    held = sum(foretold.memory.values()) / 1e6
    taken = alone(memory, case, device)
    began, passed = alone(seconds, case, device)
    first = max(2, case.steps // 10)
    left = case.recipe.model_copy(update={"steps": case.steps - first})
    expected = 3600 * foretold.hours(left, foretold.flops * first / began)
    return {
        "case": case.name,
        "batch": case.recipe.batch,
        "parameters M": sum(foretold.parameters.values()) / 1e6,
        "GFLOP a step": foretold.flops / 1e9,
        "counted": counted / 1e9,
        "ratio of work": foretold.flops / counted,
        "memory MB": held,
        "taken": taken,
        "ratio of memory": held / taken,
        "seconds": expected,
        "passed": passed,
        "ratio of time": expected / passed,
    }


def benchmark(given: argparse.Namespace) -> Table:
    """All sizes."""
    run = choices.read(given, (1,))
    return Table("Planned and taken", run.facts(run.rate()), COLUMNS, [row(case, run.device) for case in cases(run)])


if __name__ == "__main__":
    choices.run(choices.parser("What `plan` foretells beside what a training takes."), benchmark)
