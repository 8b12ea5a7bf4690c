"""The training recipe, and the optimiser and learning-rate schedule that it describes."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

import torch
from pydantic import AfterValidator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.foundation.config import Config, plain
from components.foundation.errors import InputError
from components.foundation.settings.ranges import (
    Count,
    Interval,
    NonNegative,
    Positive,
    Seed,
    Several,
    Share,
    Whole,
    in_order,
)
from components.nn.from_timm import weight_decay_groups

FewestMost = Annotated[tuple[Count, Count], AfterValidator(in_order)]

# settings that change how a training runs but not its result
RUNTIME_SETTINGS: Final = ("workers", "parallel", "micro_batch", "activation_checkpointing", "compile", "keep")


class PhaseConfig(Config):
    """A phase of a training run, which starts from the averaged weights of the previous phase.

    A field that is null takes its value from the recipe or the model.
    """

    steps: Count  # optimiser steps
    batch: Count | None  # clips per step over all workers
    learning_rate: Positive | None
    frames: Several | None  # number of latent frames, from the start of each clip
    resolution: tuple[Count, Count] | None  # height, width in pixels that clips are resized to
    frame_noise: Interval | None  # interval of r, Eq. 11
    canvas_noise: Interval | None  # interval of r', Eq. 12


class RecipeConfig(Config):
    """Settings of a training run, the same for an autoencoder and for a video model."""

    seed: Seed
    steps: Count  # optimiser steps
    batch: Count  # clips per step over all workers
    micro_batch: Count | None  # clips per worker and forward pass, with gradient accumulation; null: its whole share
    learning_rate: Positive  # after the warm-up
    schedule: Literal["constant", "cosine"]  # after the warm-up; cosine falls to 1 % of the learning rate
    warmup: Whole  # steps of linear warm-up
    weight_decay: NonNegative  # of AdamW
    clip: Positive  # gradient norm above which gradients are clipped
    ema: Share  # decay of the averaged weights per step
    precision: Literal["float32", "bfloat16"]  # bfloat16: autocast; weights and optimiser stay in float32
    activation_checkpointing: bool  # recompute the activations of blocks in the backward pass to save memory
    compile: bool  # with torch.compile, which needs a C++ compiler
    workers: Count | FewestMost  # a number; [fewest, most]: as many as the cluster has resources for
    parallel: Literal["ddp", "fsdp"]  # ddp: each worker holds the whole model; fsdp: a shard of every weight
    log_every: Count  # steps
    validate_every: Count  # steps
    validation_clips: Whole  # number of clips of each validation
    checkpoint_every: Count  # steps; also the largest number of steps that a killed run repeats
    keep: Count  # number of checkpoints with the lowest validation loss to keep, besides the newest
    new_weights: tuple[str, ...]  # name prefixes of weights that the row's `start` lacks; these stay random
    phases: tuple[PhaseConfig, ...]  # run in this order; empty: a single phase of `steps` steps

    @property
    def num_workers(self) -> tuple[int, int]:
        """Minimum and maximum number of workers."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    def resolved_phases(self) -> list["Phase"]:
        """Return the phases, each with its own recipe. The learning-rate schedule and the EMA restart in each phase."""
        if not self.phases:
            return [Phase("", self, None, None, {})]
        phases = []
        for number, phase in enumerate(self.phases, 1):
            changes = {"steps": phase.steps, "batch": phase.batch, "learning_rate": phase.learning_rate}
            changed = {name: value for name, value in changes.items() if value is not None}
            noises = {"frame_noise": phase.frame_noise, "canvas_noise": phase.canvas_noise}
            name = f"phase {number} of {len(self.phases)}"
            noise = {name: value for name, value in noises.items() if value is not None}
            recipe = self.model_copy(update={"phases": (), **changed})
            phases.append(Phase(name, recipe, phase.frames, phase.resolution, noise))
        return phases

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that determine the result. A resumed run may change only RUNTIME_SETTINGS."""
        return {name: value for name, value in plain(self).items() if name not in RUNTIME_SETTINGS}

    def check(self) -> None:
        """Raise InputError if settings of the recipe or of a phase contradict each other."""
        for phase in self.resolved_phases() if self.phases else ():
            phase.recipe.check()
        if self.phases and self.phases[-1].resolution is not None:
            raise InputError(
                f"the last of {len(self.phases)} phases has resolution {list(self.phases[-1].resolution)}, but must "
                "train at the resolution of the dataset; set resolution of that phase to null"
            )
        _, most = self.num_workers
        if self.batch < most:
            raise InputError(
                f"recipe.batch is {self.batch}, too few for {most} workers, each of which needs a clip; "
                "use fewer workers or a larger batch"
            )


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a training run with its complete recipe."""

    name: str  # empty for a training run without phases
    recipe: RecipeConfig
    frames: int | None  # number of latent frames; None: all
    resolution: tuple[int, int] | None  # height, width in pixels that clips are resized to; None: not resized
    noise: dict[str, tuple[float, float]]  # frame_noise and canvas_noise that replace the model's

    def latent_shape(self, full_shape: tuple[int, int, int], size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents in this phase.

        `full_shape` is that of clips at their own resolution `size` (height, width in pixels). Raise InputError if the
        phase's resolution is not a multiple of the VAE's stride.
        """
        if self.resolution is None:
            return full_shape
        strides = [pixels // side for pixels, side in zip(size, full_shape[1:], strict=True)]
        if any(side < stride or side % stride for side, stride in zip(self.resolution, strides, strict=True)):
            raise InputError(
                f"{self.name} has resolution {list(self.resolution)}, but a latent pixel covers {strides} pixels; "
                "use multiples of these strides"
            )
        height, width = (side // stride for side, stride in zip(self.resolution, strides, strict=True))
        return full_shape[0], height, width


@runtime_checkable
class HasNoWeightDecay(Protocol):
    """A model with parameters that are exempt from weight decay."""

    def no_weight_decay(self) -> set[str]:
        """Return the names of the exempt parameters."""
        ...


def build_optimizer(model: nn.Module, recipe: RecipeConfig) -> torch.optim.AdamW:
    """Return AdamW with betas (0.9, 0.95).

    Biases, norms and the parameters of `model.no_weight_decay()` are not decayed.
    """
    exempt = model.no_weight_decay() if isinstance(model, HasNoWeightDecay) else set()
    groups = weight_decay_groups(model, recipe.weight_decay, exempt)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: RecipeConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule: linear warm-up, then constant or a cosine down to 1 % of the learning rate."""

    def factor(step: int) -> float:
        if step < recipe.warmup:
            return (step + 1) / (recipe.warmup + 1)
        if recipe.schedule == "constant":
            return 1.0
        progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Return an EMA of the model's parameters, with copies of its buffers. It starts as a copy of the model."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averaged.requires_grad_(False)
    return averaged


def averaged_state(averaged: AveragedModel) -> dict[str, torch.Tensor]:
    """Return the averaged weights under the model's own parameter names."""
    return dict(averaged.module.state_dict())
