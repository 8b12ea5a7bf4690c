"""Parameter groups, the schedule of the learning rate, and the recipe that names both."""

import math
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from components.config import Config, plain
from components.errors import InputError
from components.nn.from_timm import param_groups_weight_decay


MOVABLE: Final = ("workers", "micro_batch", "activation_checkpointing", "compile", "keep")  # how a training is carried out, and not what comes of it


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
    workers: int
    log_every: int  # steps
    validate_every: int
    validation_clips: int
    checkpoint_every: int
    keep: int  # newest checkpoints that are kept, besides the best by validation loss

    def lasting(self) -> dict[str, Any]:
        """The choices that make the result: a training may be moved to other workers and go on, but nothing else."""
        return {name: value for name, value in plain(self).items() if name not in MOVABLE}

    def check(self) -> None:
        """Raises InputError for a recipe that cannot be followed."""
        for name in ("steps", "batch", "workers", "log_every", "validate_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"recipe.{name} is {getattr(self, name)}; it must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"recipe.micro_batch is {self.micro_batch}; it must be at least 1, or null")
        if self.batch % self.workers:
            raise InputError(
                f"recipe.batch is {self.batch}, which {self.workers} workers cannot share equally; "
                "use a multiple of workers"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"recipe.ema is {self.ema}; it must lie between 0 and 1, 1 excluded")


@runtime_checkable
class Exempting(Protocol):
    """A model that names parameters which weight decay must leave alone."""

    def no_weight_decay(self) -> set[str]:
        """Their names."""
        ...


def build_optimizer(model: nn.Module, config: RecipeConfig) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.95); biases, norms and what `model.no_weight_decay()` names are not decayed."""
    exempt = model.no_weight_decay() if isinstance(model, Exempting) else set()
    groups = param_groups_weight_decay(model, weight_decay=config.weight_decay, no_weight_decay_list=exempt)
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
