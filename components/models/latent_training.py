"""Set up the training of a video model on one worker: the model, its initial weights, and its batches of latents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.datasets.conditions import Conditions
from components.datasets.latents import Latents, standardise
from components.datasets.loading import ReadAhead, sample_ids, share
from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.foundation.randomness import Stream, derive
from components.models.conditions.interface import ConditionedClips
from components.models.kinds import ModelConfig
from components.nn.autoencoders.interface import sample
from components.training.loop import Data, Training, Worker
from components.training.optimizer import Phase, RecipeConfig

# the `start` of a row that trains from random weights: DVC needs a folder that exists
RANDOM_WEIGHTS: Final = Path("presets/random-weights")


@runtime_checkable
class PreviewRenderer(Protocol):
    """Renders a model's predictions of a few validation clips."""

    def render(self, model: nn.Module, frames: int | None, step: int) -> None:
        """Render predictions of the first `frames` latent frames, or of all if None, after a step."""


@runtime_checkable
class Previews(Protocol):
    """Destination of the previews of a training run."""

    @property
    def clips(self) -> int:
        """Number of validation clips in a preview."""

    def renderer(
        self, latents: Latents, conditions: Float[Tensor, "b l i"] | None, device: torch.device
    ) -> PreviewRenderer:
        """Return the renderer of these previews."""


def sample_latents(latents: Latents, moments: Tensor, stream: Stream) -> Tensor:
    """Return standardised samples of the posterior."""
    noise = stream.fork("posterior").normal(*latents.shape)
    return standardise(sample(moments, noise), latents.mean, latents.std)


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Weights from which a phase starts."""

    path: Path
    new: tuple[str, ...]  # name prefixes of weights that the file lacks

    @classmethod
    def of(cls, start: Path, new: tuple[str, ...]) -> "InitialWeights | None":
        """Return the weights of a row's `start`, the folder of a trained model; None if it is RANDOM_WEIGHTS."""
        return None if start == RANDOM_WEIGHTS else cls(start.resolve() / checkpoint.WEIGHTS, new)

    @property
    def identity(self) -> str:
        """Hash of the weights. Raises InputError if they are missing or damaged."""
        return checkpoint.identity(self.path.parent)


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """Folders of the latents and conditions that a video model is trained on."""

    latents: Path
    conditions: Path | None  # folder that `encoders.prepare` returns

    def open(self, split: str) -> "Split":
        """Open a split. Raises InputError if files are missing or damaged, or latents and conditions do not match."""
        conditions = None if self.conditions is None else Conditions.open(self.conditions, split, None)
        return Split(Latents.open(self.latents, split, None), conditions)


@dataclass(frozen=True, slots=True)
class Split:
    """Latents of a split, with their conditions."""

    latents: Latents
    conditions: Conditions | None

    def read(self, ids: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return the moments and conditions of these clips."""
        return self.latents.moments(ids), None if self.conditions is None else self.conditions.read(ids)

    def batch(
        self, loaded: tuple[Tensor, Tensor | None], stream: Stream, frames: int | None = None
    ) -> Tensor | ConditionedClips:
        """Return the model's input from the result of `read`: the first `frames` latent frames, or all if None."""
        moments, condition = loaded
        latents = sample_latents(self.latents, moments, stream)[:, :frames]
        if condition is None or self.conditions is None:
            return latents
        if self.conditions.transitions:
            condition = condition[:, : latents.shape[1] - 1]
        return ConditionedClips(latents, condition)


def make(
    model: ModelConfig,
    phase: Phase,
    source: TrainingSource,
    start: InitialWeights | None,
    previews: Previews | None,
    worker: Worker,
) -> tuple[Training, Data]:
    """Return the training state and the data of a phase on this worker.

    Rank 0 renders the previews, unless the weights are sharded over several workers.
    """
    recipe = phase.recipe
    torch.manual_seed(derive(recipe.seed, "model"))
    module = model.build()
    if start is not None:
        new_weights = checkpoint.begin_with(start.path, module, start.new)
        if new_weights and worker.rank == 0:
            worker.warn(f"these weights are new and keep their random initialisation: {', '.join(new_weights)}")
    module.to(worker.device)
    train, val = source.open("train"), source.open("val")

    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor | ConditionedClips]]:
        def ids(step: int) -> tuple[int, ...]:
            batch_ids = sample_ids(step, size=len(train.latents), batch=recipe.batch, seed=recipe.seed)
            return share(batch_ids, worker.rank, worker.world_size)

        with ReadAhead(train.read, ids, range(start, recipe.steps)) as ahead:
            for loaded in ahead:
                stream = Stream.of(recipe.seed, loaded.ids).fork("step", loaded.step)
                yield loaded.ids, train.batch(loaded.data, stream, phase.frames)

    chosen = range(min(recipe.validation_clips, len(val.latents)))
    parts = [tuple(chosen[start : start + recipe.batch]) for start in chosen[:: recipe.batch]]
    validation = [(ids, val.batch(val.read(ids), Stream.of(recipe.seed, ids).fork("held"))) for ids in parts]
    unsharded = worker.world_size == 1 or recipe.parallel != "fsdp"
    if previews is None or not chosen or worker.rank or not unsharded:
        return Training(module, worker.parallel, recipe), Data(batches, validation)
    preview_ids = range(min(previews.clips, len(val.latents)))
    renderer = previews.renderer(val.latents, val.read(preview_ids)[1], worker.device)

    def render_preview(averaged: nn.Module, step: int) -> None:
        renderer.render(averaged, phase.frames, step)

    return Training(module, worker.parallel, recipe), Data(batches, validation, render_preview)


def phase_model(model: ModelConfig, phase: Phase, latent: tuple[int, int, int]) -> ModelConfig:
    """Return the model config of a phase: for latents of this shape, with the noise intervals of the phase.

    Raises InputError if the phase sets noise intervals and the model has no canvas.
    """
    model = model.model_copy(update={"latent": latent})
    if not phase.noise:
        return model
    canvas = getattr(model, "canvas", None)
    if canvas is None:
        raise InputError(f"{phase.name} sets {' and '.join(phase.noise)}, but the model has no canvas; use null there")
    return model.model_copy(update={"canvas": canvas.model_copy(update=phase.noise)})


def check(model: ModelConfig, recipe: RecipeConfig, latents: Latents, folder: Path) -> None:
    """Raise InputError if the model or the recipe does not fit the latents."""
    if model.latent != latents.shape[1:]:
        raise InputError(
            f"the model is for latents of (channels, height, width) {model.latent}, "
            f"but {folder} holds {latents.shape[1:]}; set model.latent to this shape, or train another autoencoder"
        )
    recipe.check()
    for phase in recipe.resolved_phases():
        if phase.frames is not None and not 2 <= phase.frames <= latents.shape[0]:
            raise InputError(
                f"{phase.name} uses {phase.frames} latent frames, but the clips in {folder} have {latents.shape[0]}; "
                f"use 2 to {latents.shape[0]}, or null for all"
            )
