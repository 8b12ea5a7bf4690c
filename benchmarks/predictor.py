"""`python -m benchmarks.predictor`: what a stream of frames costs beside the sampler and the VAE that make them.

The ways take turns, so that all meet the same machine; shares are medians over the turns. The weights are fresh.
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
from components.autoencoders.causal import CausalVAEConfig
from components.autoencoders.interface import to_uint8
from components.data.latents import restore
from components.errors import InputError
from components.models.canvasmar import CanvasMARConfig
from components.models.trained import Trained
from components.randomness import Stream
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from pipeline.video_predictor import VideoPredictor

SAMPLER, DECODED, STREAM = "sampler alone", "sampler and VAE", "VideoPredictor.stream"
VAES = {"default": "kuka-vae", "bair": "bair-vae"}
COLUMNS = ("way", "first frame ms", "clip ms", "frames a second", "first frame over sampler and VAE %", "clip over %")


def predictor(size: str, device: torch.device) -> VideoPredictor:
    """The model and the VAE of a params file, untrained."""
    model = choices.entry(size, CanvasMARConfig, "models", "canvas")
    vae = choices.entry(size, CausalVAEConfig, "autoencoders", VAES[size])
    ones = (1.0,) * vae.channels
    trained = Trained(model=model, autoencoder="", clips="", encoder=None, mean=ones, std=ones)
    coder, module = (part.build().requires_grad_(False).eval().to(device) for part in (vae, model))
    made = VideoPredictor(coder, module, trained, device)  # type: ignore[arg-type]
    made.sampler = choices.entry("default", SamplerConfig, "samplers", "default")
    return made


def sampled(made: VideoPredictor, latents: Float[Tensor, "b t c h w"], frames: int) -> Iterator[Any]:
    """The rollout: latent frames, nothing decoded."""
    yield from rollout(made.model, latents, frames, Stream.of(0, (0,), made.device), made.sampler)


@torch.no_grad()
def decoded(made: VideoPredictor, video: UInt8[Tensor, "f c h w"], frames: int) -> Iterator[Any]:
    """The least that gives pixels: each frame and its canvas decoded after what the decoder looks back at."""
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
    """Seconds to the first and to the last of what comes."""
    marks = [clock.now(device)]
    for _ in way():
        marks.append(clock.now(device))
    return marks[1] - marks[0], marks[-1] - marks[0]


def measure(made: VideoPredictor, frames: int, run: Choices) -> list[dict[str, Value]]:
    """A row for each way to so many pixel frames after one."""
    video = torch.zeros(1, 3, *made.size, dtype=torch.uint8)
    count, latents = -(-frames // made.vae.strides[0]), made.encode(video[None])
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        SAMPLER: lambda: sampled(made, latents, count),
        DECODED: lambda: decoded(made, video, count),
        STREAM: lambda: made.stream(video, frames=frames),
    }
    for way in ways.values():  # warms up
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
    """The three ways, one video at a time."""
    run = choices.read(given, (1,))
    if run.batches != (1,):
        raise InputError("--batch is not for this benchmark; it measures one video at a time")
    made = predictor(run.size, run.device)
    frames = 4 if run.quick else 16
    facts: dict[str, Value] = {"frames": frames, "frames decoded again with each": made.reach}
    return Table("Predictor", run.facts(run.rate()) | facts, COLUMNS, measure(made, frames, run))


if __name__ == "__main__":
    choices.run(choices.parser("A stream of frames beside the sampler and the VAE alone."), benchmark)
