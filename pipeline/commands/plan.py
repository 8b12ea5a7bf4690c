"""Command `plan`: estimate parameters, FLOPs, memory and time of a training run before it starts."""

import math
from pathlib import Path

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.models.conditions.interface import zero_clip
from components.models.kinds import ModelConfig
from components.nn.autoencoders.kinds import AutoencoderConfig
from components.reporting.tables.tables import duration
from components.telemetry.progress import say
from components.training.optimizer import RecipeConfig
from components.training.plan import Plan, plan
from pipeline.checks import command
from pipeline.runtime import stage


class Params(Config):
    """Model, recipe and VAE of a row; the VAE gives the shape of the latents."""

    autoencoder: AutoencoderConfig
    model: ModelConfig
    recipe: RecipeConfig


def run(row: str, file: Path, rates: list[float]) -> int:
    """Print the plan of a row of this params file, with the time at each rate in TFLOP/s; no data are needed.

    Return the exit status: 2 after printing the problems of the file, if it has any. Raise InputError if the row is
    unknown, or a rate is not positive and finite.
    """
    if invalid := [rate for rate in rates if not 0 < rate < math.inf]:
        raise InputError(f"--rate is {invalid[0]:g}; use a positive number of TFLOP/s")
    tables = stage.read_tables(file)
    if command.has_problems(tables, file, videos_needed=False):
        return 2
    params: Params = stage.resolve(Params, tables, "experiments", row)
    say(report(params, rates))
    return 0


def report(params: Params, rates: list[float]) -> str:
    """Return the plans of all phases as text."""
    frames, channels, height, width = params.autoencoder.latent
    parts = []
    for phase in params.recipe.resolved_phases():
        latent = phase.latent_shape((channels, height, width), params.autoencoder.resolution)
        model, shape = params.model.model_copy(update={"latent": latent}), (phase.frames or frames, *latent)
        planned = plan(model.build, zero_clip(model, shape), phase.recipe)
        parts.append(_text(phase.name, phase.recipe, shape, planned, rates))
    return "\n".join(parts)


def _text(name: str, recipe: RecipeConfig, shape: tuple[int, ...], planned: Plan, rates: list[float]) -> str:
    """Return the plan of one phase as lines of text."""
    frames, _, height, width = shape
    tokens = (frames - 1) * height * width * recipe.batch
    memory = sum(planned.memory.values())
    lines = [
        ("parameters", _list({name: f"{count / 1e6:.2f} M" for name, count in planned.parameters.items()})),
        ("", f"{sum(planned.parameters.values()) / 1e6:.2f} M in total"),
        ("tokens", f"{height * width} per frame, {tokens} predicted per step, {tokens * recipe.steps:.3g} in total"),
        ("per step", f"{planned.flops / 1e12:.3g} TFLOP over {planned.num_workers} workers, mean over random masks"),
        ("", f"{_mib(2 * planned.read_bytes)} read (means and variances), {_mib(planned.sent_bytes)} sent per worker"),
        ("memory", f"{_mib(memory)} per worker for a micro-batch of {planned.micro_batch} clips, without torch itself"),
        ("", _list({name: _mib(size) for name, size in planned.memory.items() if size})),
        (
            "steps",
            f"{recipe.steps}, with a checkpoint of {_mib(planned.checkpoint_bytes)} every {recipe.checkpoint_every}",
        ),
        ("", "the first worker's machine holds a copy of that size in its memory until it is written"),
        ("time", _list({f"at {rate:g} TFLOP/s per worker": _time(planned, recipe, rate) for rate in rates})),
    ]
    title = [f"{name}:"] if name else []
    return "\n".join([*title, *(f"  {label:<12}{value}" for label, value in lines)])


def _list(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _time(planned: Plan, recipe: RecipeConfig, rate: float) -> str:
    return duration(3600 * planned.hours(recipe, rate * 1e12))
