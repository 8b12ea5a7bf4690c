"""`python -m benchmarks.families`: time and memory of the model families of presets/compare.yaml, at equal size.

Sampling: milliseconds to the first and to the last frame, with the sampler of each row. Training: supervised tokens
per second. Times are medians over repeats. Each repeat measures every family once, so that changes in machine load
affect all rows alike. Weights are untrained, which does not change the cost. No code here depends on the model kind.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks import choices, clock
from benchmarks.choices import Choices
from benchmarks.table import Table, Value
from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.foundation.settings import presets
from components.models.kinds import Model, ModelConfig
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from components.training import plan
from components.training.loop import Training
from components.training.optimizer import RecipeConfig

PRESET = choices.ROOT / "presets" / "compare.yaml"
FRAMES, CONTEXT = 11, 3  # latent frames of a clip, and of its context
DRAWS = 16  # steps over which FLOP are averaged, since they depend on random masks and targets
COLUMNS = (
    "family", "batch", "parameters M", "sets", "first frame ms", "clip ms", "sampling MB", "first frame, of anchor",
    "clip, of anchor", "tokens/s", "training GFLOP a clip", "training MB",
)  # fmt: skip


class Row(Config):
    """The configs of a row that the benchmark uses."""

    model: ModelConfig
    sampler: SamplerConfig
    recipe: RecipeConfig


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the preset with its built model."""

    name: str
    model: Model
    sampler: SamplerConfig
    recipe: RecipeConfig


@dataclass(frozen=True, slots=True)
class Sampled:
    """Seconds to the first and to the last frame, and peak memory in MB."""

    first: float
    clip: float
    peak: float | None


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Seconds of a training step, its number of supervised tokens, and peak memory in MB."""

    seconds: float
    tokens: int
    peak: float | None


def families(device: torch.device) -> list[Family]:
    """Build the rows of the preset with untrained weights."""
    content = presets.read(PRESET)
    found = []
    for name, chosen in content["experiments"].items():
        fields = {field: content[f"{field}s"][chosen[field]] for field in Row.model_fields}
        row = parse(Row, fields, where=f"{PRESET.name}: experiments.{name}")
        found.append(Family(name, row.model.build().to(device), row.sampler, row.recipe))
    return found


def sample(family: Family, batch: int, frames: int, run: Choices) -> Sampled:
    """Time one rollout of `batch` videos."""
    model, device = family.model.eval(), run.device
    context = torch.randn(batch, CONTEXT, *model.config.latent, device=device)
    clock.forget_peak(device)
    marks = [clock.now(device)]
    with run.precision():
        for _ in rollout(model, context, frames, Stream.of(0, range(batch), device), family.sampler):
            marks.append(clock.now(device))
    return Sampled(marks[1] - marks[0], marks[-1] - marks[0], clock.peak(device))


def learner(family: Family, batch: int, run: Choices) -> Callable[[], TrainingCost]:
    """Return a function that trains for one step on clips of noise and measures it."""
    recipe = family.recipe.model_copy(update={"batch": batch, "workers": 1, "precision": run.dtype})
    training = Training(family.model, lambda module: module, recipe)
    clips = torch.randn(batch, FRAMES, *family.model.config.latent, device=run.device)
    samples = tuple(range(batch))

    def step() -> TrainingCost:
        family.model.train()
        # `update` makes the same draws: they depend only on seed, samples and step
        draws = training.draw(clips, Stream.of(recipe.seed, samples, run.device).fork("step", training.step))
        clock.forget_peak(run.device)
        began = clock.now(run.device)
        training.update(samples, clips)
        seconds = clock.now(run.device) - began
        tokens = family.model.supervised_tokens(draws)  # type: ignore[arg-type]
        return TrainingCost(seconds, tokens, clock.peak(run.device))

    return step


def measure(several: list[Family], batch: int, frames: int, run: Choices) -> list[dict[str, Value]]:
    """Return the rows of the table for one batch size; the last family is the anchor of the speed ratios."""
    print(f"batch {batch}: {len(several)} families, {run.repeats} repeats", file=sys.stderr, flush=True)
    learners = [learner(family, batch, run) for family in several]
    for family, step in zip(several, learners, strict=True):  # warm-up
        step()
        sample(family, batch, 1, run)
    sampled: list[list[Sampled]] = [[] for _ in several]
    trained: list[list[TrainingCost]] = [[] for _ in several]
    for _ in range(run.repeats):
        for index, family in enumerate(several):
            sampled[index].append(sample(family, batch, frames, run))
            trained[index].append(learners[index]())
    lines = [line(*row, batch) for row in zip(several, sampled, trained, strict=True)]
    for each in lines:
        for column, of in (("first frame ms", "first frame, of anchor"), ("clip ms", "clip, of anchor")):
            each[of] = float(lines[-1][column]) / float(each[column])  # type: ignore[arg-type]
    return lines


def line(family: Family, sampled: list[Sampled], trained: list[TrainingCost], batch: int) -> dict[str, Value]:
    """Return the row of a family: medians of times, maxima of memory."""
    clip = torch.zeros(1, FRAMES, *family.model.config.latent)
    shapes = plan.meta_copy(family.model)
    work = plan.flops(shapes, plan.draw_steps(shapes, clip, family.recipe.seed, range(DRAWS)), clip)
    return {
        **dict.fromkeys(COLUMNS),
        "family": family.name,
        "batch": batch,
        "parameters M": sum(parameter.numel() for parameter in family.model.parameters()) / 1e6,
        "sets": family.sampler.sets,
        "first frame ms": 1000 * median(each.first for each in sampled),
        "clip ms": 1000 * median(each.clip for each in sampled),
        "sampling MB": max((each.peak for each in sampled if each.peak is not None), default=None),
        "tokens/s": median(each.tokens / each.seconds for each in trained),
        "training GFLOP a clip": work / 1e9,
        "training MB": max((each.peak for each in trained if each.peak is not None), default=None),
    }


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table of all families at every batch size. Raises InputError for --frames below 1."""
    run = choices.read(given, (1,) if given.quick else (1, 16))
    frames = FRAMES - CONTEXT if given.frames is None else given.frames
    if frames < 1:
        raise InputError(f"--frames is {frames}; it must be at least 1")
    lines = [each for batch in run.batches for each in measure(families(run.device), batch, frames, run)]
    facts = {key: value for key, value in run.facts(run.rate()).items() if key != "size"}
    anchor = lines[-1]["family"]
    return Table("Families", facts | {"latent frames sampled": frames, "anchor": anchor}, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = choices.parser("Time and memory of the families of presets/compare.yaml.")
    parser.add_argument("--frames", type=int, help="latent frames to sample; default: clip length minus context")
    return parser


if __name__ == "__main__":
    choices.run(options(), benchmark)
