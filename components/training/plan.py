"""What a training takes, counted before anything is spent: on tensors that have shapes and no memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from components.randomness import Stream
from components.training.optimizer import RecipeConfig
from components.training.recompute import recompute

DRAWS: Final = 3  # steps whose chance is counted: masks differ, and with them the work
NUMBER: Final = 4  # bytes of a weight, of its gradient and of each of the optimiser's two moments, all float32


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe will take with a model."""

    parameters: dict[str, int]  # of each part of the model
    flops: float  # of a step, forward and backward, over all workers; what is computed twice counts once
    read: int  # bytes of clips that a step reads, over all workers
    exchanged: int  # bytes of gradients that each worker sends in a step
    workers: int  # the fewest of the recipe: then each has most to do and to hold
    clips: int  # that a worker holds at once
    memory: dict[str, int]  # bytes on each worker at the worst moment
    checkpoint: int  # bytes

    def hours(self, recipe: RecipeConfig, rate: float) -> float:
        """Of all steps, where each worker computes at this rate in FLOP/s."""
        return recipe.steps * self.flops / (self.workers * rate) / 3600


def plan(build: Callable[[], nn.Module], clip: Any, recipe: RecipeConfig) -> Plan:
    """The plan for a model and a batch like this one clip, [1, ...] as the model takes it."""
    with torch.device("meta"):
        model: Any = build().train()
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    workers = recipe.team[0]
    share = -(-recipe.batch // workers)
    clips = min(recipe.micro_batch or share, share)
    states = {
        "weights": NUMBER * weights,
        "averaged weights": NUMBER * weights,
        "optimiser": 2 * NUMBER * trained,
    }
    working = working_memory(build, clip, clips, recipe)
    spread = workers if recipe.parallel == "fsdp" else 1
    return Plan(
        parameters=parameters(model),
        flops=recipe.batch * flops(model, draws(model, clip, recipe.seed, range(DRAWS)), clip),
        read=recipe.batch * _bytes(clip),
        exchanged=2 * (workers - 1) * NUMBER * trained // workers,  # a ring
        workers=workers,
        clips=clips,
        memory={
            **{name: size // spread for name, size in states.items()},
            "gradients and activations": working - NUMBER * trained * (spread - 1) // spread,
            "gradients on their way": NUMBER * trained if workers > spread else 0,
            "weights put together": NUMBER * together(model) if spread > 1 else 0,
        },
        checkpoint=sum(states.values()),
    )


def parameters(model: nn.Module) -> dict[str, int]:
    """The number of weights in each part of a model, and of those that stand beside its parts."""
    parts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    own = sum(weight.numel() for weight in model.parameters(recurse=False))
    return {name: count for name, count in {**parts, "others": own}.items() if count}


def draws(model: Any, batch: Any, seed: int, steps: Sequence[int]) -> list[Any]:
    """The chance of these steps on a batch; `draw` asks nothing of a model's weights."""
    stream = Stream.of(seed, range(len(batch)), batch.device)
    return [model.draw(batch, stream.fork("step", step)) for step in steps]


def terms(build: Callable[[], nn.Module], clip: Any) -> list[str]:
    """The losses that a training of this model on clips like this one, [1, ...] as the model takes it, reports.

    The whole comes first, then its parts. Only shapes are followed: nothing is computed.
    """
    with torch.device("meta"):
        model: Any = build().train()
    (chance,) = draws(model, clip, 0, [0])
    losses = model(clip.to("meta"), _each(chance, lambda tensor: tensor.to("meta")))
    return ["loss", *losses.terms]


def shapes(model: nn.Module) -> nn.Module:
    """A copy of a model without any memory."""
    return copy.deepcopy(model).to("meta").train()


def flops(model: nn.Module, chances: Sequence[Any], batch: Any) -> float:
    """Floating-point operations of forward and backward on this batch, the mean over these draws; a model of shapes."""
    total = 0
    for chance in chances:
        with FlopCounterMode(display=False) as counter:
            model(batch.to("meta"), _each(chance, lambda tensor: tensor.to("meta"))).total.backward()
        total += counter.get_total_flops()
    return total / len(chances)


def working_memory(build: Callable[[], nn.Module], clip: Any, clips: int, recipe: RecipeConfig) -> int:
    """Bytes of gradients and activations at the worst moment of a step with so many clips at once."""
    # imported late: they take seconds, which no training needs that only counts its work
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode() as mode:
        model = build().train()
        if recipe.activation_checkpointing:
            recompute(model)
    batch = _each(clip, lambda tensor: tensor.expand(clips, *tensor.shape[1:]).contiguous())
    (chance,) = draws(model, batch, recipe.seed, [0])
    tracker = MemTracker()
    tracker.track_external(model)
    with mode, tracker:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = model(_each(batch, mode.from_tensor), _each(chance, mode.from_tensor)).total
        loss.backward()
    peak = sum(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())
    gradients = NUMBER * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    working = max(gradients, peak - NUMBER * sum(weight.numel() for weight in model.parameters()))
    accumulated = clips * recipe.team[0] < recipe.batch  # then gradients are there from the micro-batch before
    return working + gradients if accumulated else working


def together(model: nn.Module) -> int:
    """Weights and gradients that are whole at once where they are spread: of two blocks, and of what is none."""
    blocks = [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]
    sizes = sorted((sum(weight.numel() for weight in block.parameters()) for block in blocks), reverse=True)
    inside = {weight for block in blocks for weight in block.parameters()}
    outside = sum(weight.numel() for weight in model.parameters() if weight not in inside)
    return 2 * (outside + sum(sizes[:2]))


def _bytes(clip: Any) -> int:
    """Of all tensors of a batch."""
    sizes = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    _each(clip, note)
    return sum(sizes)


def _each(chance: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Draws, or a batch, with every tensor in them changed, also in the draws that they hold."""
    if isinstance(chance, Tensor):
        return change(chance)
    if not is_dataclass(chance) or isinstance(chance, type):
        return chance
    return replace(chance, **{field.name: _each(getattr(chance, field.name), change) for field in fields(chance)})
