"""What a worker needs to train a video model: the model, its batches of latents, and what it begins with."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components import checkpoint
from components.data.latents import Latents, sample, standardise
from components.data.loading import ReadAhead, sample_ids, share
from components.errors import InputError
from components.models.kinds import ModelConfig
from components.randomness import Stream, derive
from components.training.loop import Data, Training
from components.training.optimizer import Phase, RecipeConfig
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


def make(config: ModelConfig, phase: Phase, folder: Path, start: Start | None, worker: Worker) -> tuple[Training, Data]:
    """One worker's part of a phase."""
    recipe = phase.recipe
    torch.manual_seed(derive(recipe.seed, "model"))
    model = config.build()
    if start is not None:
        fresh = checkpoint.begin_with(start.path, model, start.new)
        if fresh and worker.rank == 0:
            worker.warn(f"these weights are new and begin fresh: {', '.join(fresh)}")
    model.to(worker.device)
    train, held = Latents.open(folder, "train", None), Latents.open(folder, "val", None)

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        def ids(step: int) -> tuple[int, ...]:
            every = sample_ids(step, size=len(train), batch=recipe.batch, seed=recipe.seed)
            return share(every, worker.rank, worker.world)

        with ReadAhead(train.moments, ids, range(start, recipe.steps)) as ahead:
            for read in ahead:
                latents = batch(train, read.data, Stream.of(recipe.seed, read.ids).fork("step", read.step))
                yield read.ids, latents[:, : phase.frames]

    chosen = range(min(recipe.validation_clips, len(held)))
    parts = [tuple(chosen[start : start + recipe.batch]) for start in chosen[:: recipe.batch]]
    validation = [(ids, batch(held, held.moments(ids), Stream.of(recipe.seed, ids).fork("held"))) for ids in parts]
    return Training(model, worker.parallel, recipe), Data(batches, validation)


def model_of(config: ModelConfig, phase: Phase) -> ModelConfig:
    """The model with the noise of a phase. Raises InputError if it has no canvas whose noise could be set."""
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
