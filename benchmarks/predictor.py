"""`python -m benchmarks.predictor`: overhead of `VideoPredictor.stream` over its sampler and VAE.

Each repeat measures every variant once, so that changes in machine load affect all alike. Overheads are medians over
the repeats. Weights are untrained.
"""

import argparse
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks import choices, clock
from benchmarks.choices import Choices
from benchmarks.table import Table, Value
from components.datasets.latents import restore
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMARConfig
from components.models.serialization import ModelDescription
from components.nn.autoencoders.folded import CausalVAEConfig
from components.nn.autoencoders.interface import to_uint8
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from pipeline.commands.video_predictor import VideoPredictor

SAMPLER, DECODED, STREAM = "sampler alone", "sampler and VAE", "VideoPredictor.stream"
VAES = {"kuka": "kuka-vae", "bair": "bair-vae"}
COLUMNS = ("way", "first frame ms", "clip ms", "frames a second", "first frame over sampler and VAE %", "clip over %")


def predictor(size: str, device: torch.device) -> VideoPredictor:
    """Build a predictor from the model and the VAE of a preset, untrained."""
    model = choices.entry(size, CanvasMARConfig, "models", "canvas")
    vae = choices.entry(size, CausalVAEConfig, "autoencoders", VAES[size])
    ones = (1.0,) * vae.channels
    description = ModelDescription(
        model=model, autoencoder="", clips="", encoder=None, actions=None, mean=ones, std=ones
    )
    coder, module = (part.build().requires_grad_(False).eval().to(device) for part in (vae, model))
    made = VideoPredictor(coder, module, description, device)  # type: ignore[arg-type]
    made.sampler = choices.entry("kuka", SamplerConfig, "samplers", "default")
    return made


def sampled(made: VideoPredictor, latents: Float[Tensor, "b t c h w"], frames: int) -> Iterator[Any]:
    """Yield latent frames without decoding them."""
    yield from rollout(made.model, latents, frames, Stream.of(0, (0,), made.device), made.sampler)


@torch.no_grad()
def decoded(made: VideoPredictor, video: UInt8[Tensor, "f c h w"], frames: int) -> Iterator[Any]:
    """Yield uint8 frames. Decode each frame and canvas only with the past frames that the decoder needs."""
    latents = made.encode(video[None])
    for frame in sampled(made, latents, frames):
        assert frame.canvas is not None
        past = latents if made.reach is None else latents[:, -made.reach :]
        for newest in (frame.latent, frame.canvas):
            pixels = made.vae.decode(restore(torch.cat([past, newest[:, None]], dim=1), made.mean, made.std))
            shown = to_uint8(pixels[:, -made.vae.strides[0] :]).cpu()
        yield shown
        latents = torch.cat([latents, frame.latent[:, None]], dim=1)


def timed(way: Callable[[], Iterator[Any]], device: torch.device) -> tuple[float, float]:
    """Return the seconds to the first and to the last item of an iterator."""
    marks = [clock.now(device)]
    for _ in way():
        marks.append(clock.now(device))
    return marks[1] - marks[0], marks[-1] - marks[0]


def measure(made: VideoPredictor, frames: int, run: Choices) -> list[dict[str, Value]]:
    """Return one row per variant, for `frames` predicted pixel frames after one context frame."""
    video = torch.zeros(1, 3, *made.size, dtype=torch.uint8)
    count, latents = -(-frames // made.vae.strides[0]), made.encode(video[None])
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        SAMPLER: lambda: sampled(made, latents, count),
        DECODED: lambda: decoded(made, video, count),
        STREAM: lambda: made.stream(video, frames=frames),
    }
    for way in ways.values():  # warm-up
        next(way())
    turns = [{name: timed(way, run.device) for name, way in ways.items()} for _ in range(run.repeats)]
    lines: list[dict[str, Value]] = []
    for name in ways:
        first, clip = (median(turn[name][part] for turn in turns) for part in (0, 1))
        over = [median(turn[name][part] / turn[DECODED][part] for turn in turns) for part in (0, 1)]
        values: tuple[Value, ...] = (
            name,
            1000 * first,
            1000 * clip,
            frames / clip,
            *(100 * (share - 1) for share in over),
        )
        lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def benchmark(given: argparse.Namespace) -> Table:
    """Return the table of the three variants. Raises InputError for --batch other than 1."""
    run = choices.read(given, (1,))
    if run.batches != (1,):
        raise InputError("--batch must be 1: this benchmark measures one video at a time; omit the option")
    made = predictor(run.size, run.device)
    frames = 4 if run.quick else 16
    facts: dict[str, Value] = {"frames": frames, "frames decoded again with each": made.reach}
    return Table("Predictor", run.facts(run.rate()) | facts, COLUMNS, measure(made, frames, run))


if __name__ == "__main__":
    choices.run(choices.parser("Overhead of a stream of frames over its sampler and VAE."), benchmark)
