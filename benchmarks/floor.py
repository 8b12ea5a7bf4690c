"""`python -m benchmarks.floor`: lower bound of the time: FLOP divided by the measured FLOP/s of matrix products."""

import argparse
from statistics import mean

import torch

from benchmarks import arithmetic, choices
from benchmarks.arithmetic import Operations
from benchmarks.table import Table, Value
from components.models import masking
from components.models.canvasmar.model import CanvasMARConfig
from components.sampling.frame import SamplerConfig

COLUMNS = ("what", "batch", *arithmetic.COLUMNS, "GFLOP", "head's share", "floor ms")


def row(name: str, batch: int, operations: Operations, rate: float) -> dict[str, Value]:
    """Return one row of the table; `rate` is in FLOP/s."""
    work = sum(operations.values())
    return {
        "what": name,
        "batch": batch,
        **arithmetic.columns(operations),
        "GFLOP": work / 1e9,
        "head's share": operations["head"] / work,
        "floor ms": 1000 * work / rate,
    }


def rows(
    config: CanvasMARConfig, samplers: dict[str, SamplerConfig], batch: int, rate: float
) -> list[dict[str, Value]]:
    """Return a row for the second latent frame by each sampler, and one for a training step.

    The training step has the mean number of visible tokens.
    """
    history = arithmetic.remembered(config, batch, 1, 1)
    frames = {
        name: arithmetic.add(history, arithmetic.sampled(config, sampler, batch)) for name, sampler in samplers.items()
    }
    n, chance = config.latent[1] * config.latent[2], torch.Generator().manual_seed(0)
    visible = round(mean(masking.visible_count(n, config.mask, chance) for _ in range(1000)))
    return [
        *(row(f"latent frame, {name}", batch, frame, rate) for name, frame in frames.items()),
        row("training step", batch, arithmetic.training(config, batch, config.temporal.window, visible), rate),
    ]


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table for the samplers `default` and `fast` with and without guidance, and for a training step."""
    run = choices.read(given, (1,))
    config = choices.entry(given.size, CanvasMARConfig, "models", "canvas")
    guided = {name: choices.entry("kuka", SamplerConfig, "samplers", name) for name in ("default", "fast")}
    samplers = {
        f"{name}{suffix}": sampler.model_copy(update=change)
        for name, sampler in guided.items()
        for suffix, change in ((", no guidance", {"temporal_scale": 1.0, "canvas_scale": 1.0}), ("", {}))
    }
    rate = run.rate()
    lines = [line for batch in run.batches for line in rows(config, samplers, batch, rate)]
    return Table("Floor", run.facts(rate), COLUMNS, lines)


if __name__ == "__main__":
    choices.run(choices.parser("Lower bound of the time of the arithmetic on this machine."), benchmark)
