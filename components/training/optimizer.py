"""Parameter groups, the schedule of the learning rate, and the recipe that names both."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from components.config import Config, plain
from components.errors import InputError
from components.nn.from_timm import weight_decay_groups

# how a training is carried out, and not what comes of it
MOVABLE: Final = ("workers", "parallel", "micro_batch", "activation_checkpointing", "compile", "keep")


class StartConfig(Config):
    """Weights that a training begins with, instead of fresh ones."""

    folder: str  # of a trained model, such as data/models/kuka-canvasmar
    new: tuple[str, ...]  # how the names of the weights begin that it lacks, and that begin fresh


class PhaseConfig(Config):
    """A part of a training: it begins with the weights of the part before; null is what recipe and model say."""

    steps: int
    batch: int | None
    learning_rate: float | None
    frames: int | None  # of latents: the first ones of each clip
    resolution: tuple[int, int] | None  # height, width in pixels that the clips are scaled to
    frame_noise: tuple[float, float] | None
    canvas_noise: tuple[float, float] | None


class RecipeConfig(Config):
    """How something is trained: the same words for an autoencoder and for a video model."""

    seed: int
    steps: int
    batch: int  # clips in a step, over all workers together
    micro_batch: int | None  # clips that a worker holds at once, their gradients added up; null is its whole share
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    warmup: int  # steps of linear warm-up
    weight_decay: float
    clip: float  # largest norm of the gradient
    ema: float  # decay of the averaged weights, a step
    precision: Literal["float32", "bfloat16"]
    activation_checkpointing: bool  # blocks are computed again in the backward pass instead of being kept
    compile: bool  # through torch.compile, which needs a C++ compiler
    workers: int | tuple[int, int]  # that share a batch; of [fewest, most] as many as the cluster has room for
    parallel: Literal["ddp", "fsdp"]  # each of several workers holds the whole model, or its part of every weight
    log_every: int  # steps
    validate_every: int
    validation_clips: int
    checkpoint_every: int
    keep: int  # newest checkpoints that are kept, besides the best by validation loss
    start: StartConfig | None
    phases: tuple[PhaseConfig, ...]  # one after the other; none is a single phase of `steps` steps

    @property
    def team(self) -> tuple[int, int]:
        """The fewest workers and the most."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    def parts(self) -> list["Phase"]:
        """The recipe of each phase; the schedule of the learning rate and the averages begin anew in each."""
        if not self.phases:
            return [Phase("", self, None, None, {})]
        parts = []
        for number, phase in enumerate(self.phases, 1):
            changes = {"steps": phase.steps, "batch": phase.batch, "learning_rate": phase.learning_rate}
            said = {name: value for name, value in changes.items() if value is not None}
            noises = {"frame_noise": phase.frame_noise, "canvas_noise": phase.canvas_noise}
            name = f"phase {number} of {len(self.phases)}"
            noise = {name: value for name, value in noises.items() if value is not None}
            recipe = self.model_copy(update={"phases": (), **said})
            parts.append(Phase(name, recipe, phase.frames, phase.resolution, noise))
        return parts

    def lasting(self) -> dict[str, Any]:
        """The choices that make the result: a training may be moved to other workers and go on, but nothing else."""
        return {name: value for name, value in plain(self).items() if name not in MOVABLE}

    def check(self) -> None:
        """Raises InputError for a recipe that cannot be followed."""
        for phase in self.parts() if self.phases else ():
            phase.recipe.check()
        if self.phases and self.phases[-1].resolution is not None:
            raise InputError(
                f"the last of {len(self.phases)} phases has resolution {list(self.phases[-1].resolution)}, but the "
                "model is for the clips' own; set it to null there"
            )
        for name in ("steps", "batch", "log_every", "validate_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"recipe.{name} is {getattr(self, name)}; it must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"recipe.micro_batch is {self.micro_batch}; it must be at least 1, or null")
        fewest, most = self.team
        if not 1 <= fewest <= most:
            raise InputError(
                f"recipe.workers is {self.workers}; it must be at least 1, or [fewest, most] in this order"
            )
        if self.batch < most:
            raise InputError(
                f"recipe.batch is {self.batch}, of which {most} workers cannot have a clip each; use fewer workers"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"recipe.ema is {self.ema}; it must lie between 0 and 1, 1 excluded")


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a training, complete."""

    name: str  # empty where it is the only one
    recipe: RecipeConfig
    frames: int | None  # of latents; None is all
    resolution: tuple[int, int] | None  # height, width of the clips in pixels; None is their own
    noise: dict[str, tuple[float, float]]  # of the canvas, where other than the model's

    def latent(self, whole: tuple[int, int, int], size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of its latents, where clips of `size` pixels have `whole` ones.

        Raises InputError if its resolution has no whole number of them.
        """
        if self.resolution is None:
            return whole
        strides = [pixels // side for pixels, side in zip(size, whole[1:], strict=True)]
        if any(side < stride or side % stride for side, stride in zip(self.resolution, strides, strict=True)):
            raise InputError(
                f"{self.name} has resolution {list(self.resolution)}, but a latent covers {strides} pixels; "
                "take multiples of that"
            )
        height, width = (side // stride for side, stride in zip(self.resolution, strides, strict=True))
        return whole[0], height, width


@runtime_checkable
class Exempting(Protocol):
    """A model that names parameters which weight decay must leave alone."""

    def no_weight_decay(self) -> set[str]:
        """Their names."""
        ...


def build_optimizer(model: nn.Module, config: RecipeConfig) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.95); biases, norms and what `model.no_weight_decay()` names are not decayed."""
    exempt = model.no_weight_decay() if isinstance(model, Exempting) else set()
    groups = weight_decay_groups(model, config.weight_decay, exempt)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, config: RecipeConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then constant, or a cosine that ends at a hundredth."""

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / (config.warmup + 1)
        if config.schedule == "constant":
            return 1.0
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
