"""Estimated FLOPs, memory and network traffic of a training run, computed on meta and fake tensors before it starts."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from components.foundation.randomness import Stream
from components.training.optimizer import RecipeConfig
from components.training.resources import checkpoint_activations

DRAWN_STEPS: Final = 3  # steps that FLOPs are averaged over, because the random masks of a step change its FLOPs
VALUE_BYTES: Final = 4  # bytes of a weight, of its gradient and of each of the optimiser's two moments, all float32


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimated cost of training a model with a recipe."""

    parameters: dict[str, int]  # number of weights in each part of the model
    flops: float  # of a step, forward and backward, over all workers, without recomputation
    read_bytes: int  # bytes of clips that a step reads, over all workers
    sent_bytes: int  # bytes of gradients that each worker sends in a step
    num_workers: int  # the recipe's fewest workers, with which each worker needs most time and memory
    micro_batch: int  # clips of a micro-batch
    memory: dict[str, int]  # peak bytes on each worker, by purpose
    checkpoint_bytes: int  # on the disk, and in the memory of the first worker's machine until it is written

    def hours(self, recipe: RecipeConfig, rate: float) -> float:
        """Return the hours of all steps, if each worker computes at `rate` FLOP/s."""
        return recipe.steps * self.flops / (self.num_workers * rate) / 3600


def plan(build: Callable[[], nn.Module], clip: Any, recipe: RecipeConfig) -> Plan:
    """Return the estimated cost of training the model of `build`, for batches of clips like `clip` ([1, ...])."""
    with torch.device("meta"):
        model: Any = build().train()
    weights = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    workers = recipe.num_workers[0]
    clips_per_worker = -(-recipe.batch // workers)
    clips = min(recipe.micro_batch or clips_per_worker, clips_per_worker)
    state_bytes = {
        "weights": VALUE_BYTES * weights,
        "averaged weights": VALUE_BYTES * weights,
        "optimiser": 2 * VALUE_BYTES * trainable,
    }
    working = working_memory(build, clip, clips, recipe)
    shards = workers if recipe.parallel == "fsdp" else 1
    return Plan(
        parameters=parameters(model),
        flops=recipe.batch * flops(model, draw_steps(model, clip, recipe.seed, range(DRAWN_STEPS)), clip),
        read_bytes=recipe.batch * _bytes(clip),
        sent_bytes=2 * (workers - 1) * VALUE_BYTES * trainable // workers,  # ring all-reduce
        num_workers=workers,
        micro_batch=clips,
        memory={
            **{name: size // shards for name, size in state_bytes.items()},
            "gradients and activations": working - VALUE_BYTES * trainable * (shards - 1) // shards,
            "all-reduce buffers": VALUE_BYTES * trainable if workers > shards else 0,
            "gathered weights": VALUE_BYTES * unsharded_weights(model) if shards > 1 else 0,
        },
        checkpoint_bytes=sum(state_bytes.values()),
    )


def parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of weights in each child module; `others` counts those of the model itself."""
    parts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    direct = sum(weight.numel() for weight in model.parameters(recurse=False))
    return {name: count for name, count in {**parts, "others": direct}.items() if count}


def draw_steps(model: Any, batch: Any, seed: int, steps: Sequence[int]) -> list[Any]:
    """Return the random draws of these steps on a batch. `model` may be on the meta device: `draw` uses no weights."""
    stream = Stream.of(seed, range(len(batch)), batch.device)
    return [model.draw(batch, stream.fork("step", step)) for step in steps]


def loss_names(build: Callable[[], nn.Module], clip: Any) -> list[str]:
    """Return the names of the losses that training on clips like `clip` ([1, ...]) reports.

    The total is first, then its terms. Runs on the meta device, so nothing is computed.
    """
    with torch.device("meta"):
        model: Any = build().train()
    (draws,) = draw_steps(model, clip, 0, [0])
    losses = model(clip.to("meta"), _map_tensors(draws, lambda tensor: tensor.to("meta")))
    return ["loss", *losses.terms]


def meta_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the meta device, which takes no memory."""
    return copy.deepcopy(model).to("meta").train()


def flops(model: nn.Module, draws: Sequence[Any], batch: Any) -> float:
    """Return the FLOPs of the forward and backward pass of a meta model on this batch: the mean over `draws`."""
    total = 0
    for step_draws in draws:
        with FlopCounterMode(display=False) as counter:
            model(batch.to("meta"), _map_tensors(step_draws, lambda tensor: tensor.to("meta"))).total.backward()
        total += counter.get_total_flops()
    return total / len(draws)


def working_memory(build: Callable[[], nn.Module], clip: Any, clips: int, recipe: RecipeConfig) -> int:
    """Return the peak bytes of gradients and activations in a step with micro-batches of `clips` clips."""
    # imported late: they take seconds, and a training run that only counts FLOPs does not need them
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode() as mode:
        model = build().train()
        if recipe.activation_checkpointing:
            checkpoint_activations(model)
    batch = _map_tensors(clip, lambda tensor: tensor.expand(clips, *tensor.shape[1:]).contiguous())
    (draws,) = draw_steps(model, batch, recipe.seed, [0])
    tracker = MemTracker()
    tracker.track_external(model)
    with mode, tracker:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = model(_map_tensors(batch, mode.from_tensor), _map_tensors(draws, mode.from_tensor)).total
        loss.backward()
    peak = sum(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())
    gradients = VALUE_BYTES * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    working = max(gradients, peak - VALUE_BYTES * sum(weight.numel() for weight in model.parameters()))
    # from the second micro-batch on, the gradients of the first are in memory already
    accumulated = clips * recipe.num_workers[0] < recipe.batch
    return working + gradients if accumulated else working


def unsharded_weights(model: nn.Module) -> int:
    """Return how many weights and gradients FSDP holds unsharded at once: two blocks, and all outside blocks."""
    blocks = [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]
    sizes = sorted((sum(weight.numel() for weight in block.parameters()) for block in blocks), reverse=True)
    inside = {weight for block in blocks for weight in block.parameters()}
    outside = sum(weight.numel() for weight in model.parameters() if weight not in inside)
    return 2 * (outside + sum(sizes[:2]))


def _bytes(clip: Any) -> int:
    """Return the bytes of all tensors of a batch."""
    sizes = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    _map_tensors(clip, note)
    return sum(sizes)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return draws or a batch with `change` applied to every tensor, also in nested dataclasses."""
    if isinstance(value, Tensor):
        return change(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _map_tensors(getattr(value, field.name), change) for field in fields(value)})
