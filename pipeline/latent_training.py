"""What a worker needs to train a video model: the model, its batches of latents, and what it begins with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from components import checkpoint
from components.data.conditions import Conditions
from components.data.latents import Latents, sample, standardise
from components.data.loading import ReadAhead, sample_ids, share
from components.errors import InputError
from components.models.conditions import Conditioned
from components.models.kinds import ModelConfig
from components.randomness import Stream, derive
from components.training.loop import Data, Training
from components.training.optimizer import Phase, RecipeConfig
from pipeline.previews import SHOWN, Album, Painter
from pipeline.workers import Worker


def batch(latents: Latents, moments: Tensor, stream: Stream) -> Tensor:
    """Standardised samples of the posterior: what the model is trained on."""
    noise = stream.fork("posterior").normal(*latents.shape)
    return standardise(sample(moments, noise), latents.mean, latents.std)


@dataclass(frozen=True, slots=True)
class Start:
    """The weights that a phase begins with."""

    path: Path
    new: tuple[str, ...]  # how the names of the weights begin that it lacks


@dataclass(frozen=True, slots=True)
class Source:
    """What a video model is trained on."""

    latents: Path
    conditions: Path | None  # `conditioning.prepare` makes the folder

    def open(self, split: str) -> "Split":
        """One of its splits. Raises InputError for what is missing, damaged or does not belong together."""
        given = None if self.conditions is None else Conditions.open(self.conditions, split, None)
        return Split(Latents.open(self.latents, split, None), given)


@dataclass(frozen=True, slots=True)
class Split:
    """Latents, and what the model sees beside them."""

    latents: Latents
    conditions: Conditions | None

    def read(self, ids: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Moments and conditions of these clips."""
        return self.latents.moments(ids), None if self.conditions is None else self.conditions.read(ids)

    def batch(
        self, read: tuple[Tensor, Tensor | None], stream: Stream, frames: int | None = None
    ) -> Tensor | Conditioned:
        """What was read as the model takes it: standardised samples of the posterior, the first so many frames."""
        moments, given = read
        latents = batch(self.latents, moments, stream)[:, :frames]
        return latents if given is None else Conditioned(latents, given)


def make(
    config: ModelConfig, phase: Phase, source: Source, start: Start | None, album: Album | None, worker: Worker
) -> tuple[Training, Data]:
    """One worker's part of a phase; the first fills the album, unless the weights are spread over several."""
    recipe = phase.recipe
    torch.manual_seed(derive(recipe.seed, "model"))
    model = config.build()
    if start is not None:
        fresh = checkpoint.begin_with(start.path, model, start.new)
        if fresh and worker.rank == 0:
            worker.warn(f"these weights are new and begin fresh: {', '.join(fresh)}")
    model.to(worker.device)
    train, held = source.open("train"), source.open("val")

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor | Conditioned]]:
        def ids(step: int) -> tuple[int, ...]:
            every = sample_ids(step, size=len(train.latents), batch=recipe.batch, seed=recipe.seed)
            return share(every, worker.rank, worker.world)

        with ReadAhead(train.read, ids, range(start, recipe.steps)) as ahead:
            for read in ahead:
                chance = Stream.of(recipe.seed, read.ids).fork("step", read.step)
                yield read.ids, train.batch(read.data, chance, phase.frames)

    chosen = range(min(recipe.validation_clips, len(held.latents)))
    parts = [tuple(chosen[start : start + recipe.batch]) for start in chosen[:: recipe.batch]]
    validation = [(ids, held.batch(held.read(ids), Stream.of(recipe.seed, ids).fork("held"))) for ids in parts]
    whole = worker.world == 1 or recipe.parallel != "fsdp"
    if album is None or not chosen or worker.rank or not whole:
        return Training(model, worker.parallel, recipe), Data(batches, validation)
    painter = Painter(album, held.latents, held.read(range(min(SHOWN, len(held.latents))))[1], worker.device)

    def look(averaged: nn.Module, step: int) -> None:
        painter.paint(averaged, phase.frames, step)

    return Training(model, worker.parallel, recipe), Data(batches, validation, look)


def model_of(config: ModelConfig, phase: Phase, latent: tuple[int, int, int]) -> ModelConfig:
    """The model of a phase, for latents of this shape and with its noise.

    Raises InputError if it has no canvas whose noise could be set.
    """
    config = config.model_copy(update={"latent": latent})
    if not phase.noise:
        return config
    canvas = getattr(config, "canvas", None)
    if canvas is None:
        raise InputError(f"{phase.name} sets {' and '.join(phase.noise)}, but the model has no canvas; use null there")
    return config.model_copy(update={"canvas": canvas.model_copy(update=phase.noise)})


def check(config: ModelConfig, recipe: RecipeConfig, latents: Latents, folder: Path) -> None:
    """Raises InputError if model or recipe do not fit the latents."""
    if config.latent != latents.shape[1:]:
        raise InputError(
            f"the model is for latents of (channels, height, width) {config.latent}, "
            f"but {folder} holds {latents.shape[1:]}; set model.latent to these numbers, or train another autoencoder"
        )
    recipe.check()
    for phase in recipe.parts():
        if phase.frames is not None and not 2 <= phase.frames <= latents.shape[0]:
            raise InputError(
                f"{phase.name} takes {phase.frames} latent frames, but {folder} has {latents.shape[0]} a clip; "
                f"take between 2 and {latents.shape[0]}, or null for all"
            )
