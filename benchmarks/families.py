"""`python -m benchmarks.families`: the families of presets/compare.yaml, of one size, in time and memory.

Sampling: milliseconds to the first frame and to the last, each family with the sampler of its row. Training:
supervised tokens a second. Medians of repeats that take turns, so that all rows meet the same machine; the weights are
fresh, which cost the same. Nothing here asks of what kind a model is.
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
from components.config import Config, parse, read_yaml
from components.errors import InputError
from components.models.kinds import Model, ModelConfig
from components.randomness import Stream
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from components.training import plan
from components.training.loop import Training
from components.training.optimizer import RecipeConfig

PRESET = choices.ROOT / "presets" / "compare.yaml"
FRAMES, CONTEXT = 9, 1  # latent frames of a clip, and those that are given
DRAWS = 16  # steps whose arithmetic is counted: masks and targets differ, and with them the work
COLUMNS = (
    "family", "batch", "parameters M", "sets", "first frame ms", "clip ms", "sampling MB", "first frame, of anchor",
    "clip, of anchor", "tokens/s", "training GFLOP a clip", "training MB",
)  # fmt: skip


class Row(Config):
    """What the benchmark takes of a row."""

    model: ModelConfig
    sampler: SamplerConfig
    recipe: RecipeConfig


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the preset: what is built, sampled and trained."""

    name: str
    model: Model
    sampler: SamplerConfig
    recipe: RecipeConfig


@dataclass(frozen=True, slots=True)
class Sampled:
    """Seconds to the first frame and to the last, and the peak of memory in MB."""

    first: float
    clip: float
    peak: float | None


@dataclass(frozen=True, slots=True)
class Trained:
    """Seconds of a step, the tokens that it learned to predict, and the peak of memory in MB."""

    seconds: float
    tokens: int
    peak: float | None


def families(device: torch.device) -> list[Family]:
    """The rows of the preset, with fresh weights."""
    content = read_yaml(PRESET)
    found = []
    for name, chosen in content["experiments"].items():
        fields = {field: content[f"{field}s"][chosen[field]] for field in Row.model_fields}
        row = parse(Row, fields, where=f"{PRESET.name}: experiments.{name}")
        found.append(Family(name, row.model.build().to(device), row.sampler, row.recipe))
    return found


def sample(family: Family, batch: int, frames: int, run: Choices) -> Sampled:
    """One rollout of so many videos."""
    model, device = family.model.eval(), run.device
    context = torch.randn(batch, CONTEXT, *model.config.latent, device=device)
    clock.forget_peak(device)
    marks = [clock.now(device)]
    with run.precision():
        for _ in rollout(model, context, frames, Stream.of(0, range(batch), device), family.sampler):
            marks.append(clock.now(device))
    return Sampled(marks[1] - marks[0], marks[-1] - marks[0], clock.peak(device))


def learner(family: Family, batch: int, run: Choices) -> Callable[[], Trained]:
    """What trains for one step, on clips of noise, and tells how long it took."""
    recipe = family.recipe.model_copy(update={"batch": batch, "workers": 1, "precision": run.dtype})
    training = Training(family.model, lambda module: module, recipe)
    clips = torch.randn(batch, FRAMES, *family.model.config.latent, device=run.device)
    samples = tuple(range(batch))

    def step() -> Trained:
        family.model.train()
        # `update` draws the same: the chance belongs to seed, samples and step
        draws = training.draw(clips, Stream.of(recipe.seed, samples, run.device).fork("step", training.step))
        clock.forget_peak(run.device)
        began = clock.now(run.device)
        training.update(samples, clips)
        seconds = clock.now(run.device) - began
        return Trained(seconds, family.model.supervised(draws), clock.peak(run.device))  # type: ignore[arg-type]

    return step


def measure(several: list[Family], batch: int, frames: int, run: Choices) -> list[dict[str, Value]]:
    """The table's rows for one batch; the last family is the anchor that the others are so many times faster than."""
    print(f"batch {batch}: {len(several)} families, {run.repeats} repeats", file=sys.stderr, flush=True)
    learners = [learner(family, batch, run) for family in several]
    for family, step in zip(several, learners, strict=True):  # warms up
        step()
        sample(family, batch, 1, run)
    sampled: list[list[Sampled]] = [[] for _ in several]
    trained: list[list[Trained]] = [[] for _ in several]
    for _ in range(run.repeats):
        for index, family in enumerate(several):
            sampled[index].append(sample(family, batch, frames, run))
            trained[index].append(learners[index]())
    lines = [line(*row, batch) for row in zip(several, sampled, trained, strict=True)]
    for each in lines:
        for column, of in (("first frame ms", "first frame, of anchor"), ("clip ms", "clip, of anchor")):
            each[of] = float(lines[-1][column]) / float(each[column])  # type: ignore[arg-type]
    return lines


def line(family: Family, sampled: list[Sampled], trained: list[Trained], batch: int) -> dict[str, Value]:
    """Medians of a family's repeats."""
    clip = torch.zeros(1, FRAMES, *family.model.config.latent)
    shapes = plan.shapes(family.model)
    work = plan.flops(shapes, plan.draws(shapes, clip, family.recipe.seed, range(DRAWS)), clip)
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
    """All families for every batch."""
    run = choices.read(given, (1,) if given.quick else (1, 16))
    frames = FRAMES - CONTEXT if given.frames is None else given.frames
    if frames < 1:
        raise InputError(f"--frames is {frames}; it must be at least 1")
    lines = [each for batch in run.batches for each in measure(families(run.device), batch, frames, run)]
    facts = {key: value for key, value in run.facts(run.rate()).items() if key != "size"}
    anchor = lines[-1]["family"]
    return Table("Families", facts | {"latent frames sampled": frames, "anchor": anchor}, COLUMNS, lines)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = choices.parser("The families of presets/compare.yaml in time and memory.")
    parser.add_argument("--frames", type=int, help="latent frames that are sampled; by default a clip's")
    return parser


if __name__ == "__main__":
    choices.run(options(), benchmark)
