"""`python -m benchmarks.training`: clips and supervised tokens per second, and the time of each phase of a step."""

import argparse
import itertools
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks import arithmetic, choices, clock
from benchmarks.choices import Choices
from benchmarks.table import Table, Value
from components.models.canvasmar.model import CanvasMARConfig
from components.models.canvasmar.values import Draws
from components.nn.losses import Losses
from components.training.loop import Training
from components.training.optimizer import RecipeConfig

PHASES = ("forward", "backward", "optimiser")
COLUMNS = (
    "case", "batch", "clips/s", "tokens/s", "step ms", *(f"{phase} ms" for phase in PHASES), "peak MB",
    *arithmetic.COLUMNS, "floor ms", "times the floor", "pace to no canvas",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of the three phases of a training step, and the number of visible tokens per frame."""

    visible: int
    forward: float  # including the random draws
    backward: float  # including gradient clipping
    optimiser: float  # including the EMA update

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return self.forward + self.backward + self.optimiser


def steps(config: CanvasMARConfig, recipe: RecipeConfig, frames: int, run: Choices) -> list[Step]:
    """Measure `run.repeats` training steps on clips of noise, after one warm-up step."""
    visible: list[int] = []
    marks: list[float] = []

    def mark(*_: object) -> None:
        marks.append(clock.now(run.device))

    def after_forward(_: nn.Module, inputs: tuple[Tensor, Draws], __: Losses) -> None:
        visible.append(inputs[1].visible)
        mark()

    model = config.build().train().to(run.device)
    model.register_forward_hook(after_forward)
    training = Training(model, lambda module: module, recipe)
    training.optimizer.register_step_pre_hook(mark)
    clips = torch.randn(recipe.batch, frames, *config.latent, device=run.device)
    found = []
    for _ in range(run.repeats + 1):
        marks.clear()
        mark()
        training.update(tuple(range(recipe.batch)), clips)
        mark()
        forward, backward, optimiser = (after - before for before, after in itertools.pairwise(marks))
        found.append(Step(visible[-1], forward, backward, optimiser))
    return found[1:]


def row(name: str, config: CanvasMARConfig, recipe: RecipeConfig, run: Choices, rate: float) -> dict[str, Value]:
    """Return one row: medians over the steps, or None in all columns if the device runs out of memory."""
    line: dict[str, Value] = {**dict.fromkeys(COLUMNS), "case": name, "batch": recipe.batch}
    frames = config.temporal.window
    clock.forget_peak(run.device)
    try:
        measured = steps(config, recipe, frames, run)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return line
    works = [arithmetic.training(config, recipe.batch, frames, step.visible) for step in measured]
    floors = [sum(work.values()) / rate for work in works]
    tokens = [recipe.batch * (frames - 1) * (config.latent[1] * config.latent[2] - step.visible) for step in measured]
    return line | {
        "clips/s": median(recipe.batch / step.seconds for step in measured),
        "tokens/s": median(count / step.seconds for count, step in zip(tokens, measured, strict=True)),
        "step ms": 1000 * median(step.seconds for step in measured),
        **{f"{name} ms": 1000 * median(getattr(step, name) for step in measured) for name in PHASES},
        "peak MB": clock.peak(run.device),
        **arithmetic.columns({part: int(median(work[part] for work in works)) for part in arithmetic.PARTS}),
        "floor ms": 1000 * median(floors),
        "times the floor": median(step.seconds / floor for step, floor in zip(measured, floors, strict=True)),
    }


def rows(config: CanvasMARConfig, recipe: RecipeConfig, run: Choices, rate: float) -> list[dict[str, Value]]:
    """Return the rows with and without the canvas at each batch size."""
    lines = []
    for batch in run.batches:
        recipe = recipe.model_copy(update={"batch": batch, "workers": 1, "precision": run.dtype})
        without = row("no canvas", config.model_copy(update={"canvas": None}), recipe, run, rate)
        for line in (row("canvas", config, recipe, run, rate), without):
            pace, other = line["clips/s"], without["clips/s"]
            if isinstance(pace, float) and isinstance(other, float):
                line["pace to no canvas"] = pace / other
            lines.append(line)
    return lines


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table."""
    run = choices.read(given, (1,) if given.quick else (1, 4))
    config = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    recipe = choices.entry(given.size, RecipeConfig, "recipes", "model")
    rate = run.rate()
    facts = run.facts(rate) | {"latent frames a clip": config.temporal.window}
    return Table("Training", facts, COLUMNS, rows(config, recipe, run, rate))


if __name__ == "__main__":
    choices.run(choices.parser("Time of a training step and of its phases."), benchmark)
