"""Which tokens of a frame are known, which come next: set sizes, training masks, random and motion-aware partitions."""

import itertools
import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from components.config import Config
from components.errors import InputError

Rule = Literal["motion_aware", "maskgit", "maskgit_plain", "random", "greedy"]


class MaskConfig(Config):
    """The law of the training mask ratio: a normal distribution cut to [low, 1] (MAR and NOVA: 1.0, 0.25, 0.7)."""

    mean: float
    std: Annotated[float, Field(gt=0)]
    low: Annotated[float, Field(ge=0, lt=1)]


def visible_count(tokens: int, config: MaskConfig, generator: torch.Generator) -> int:
    """How many of a frame's tokens the model sees in this training step: one ratio a step, the same on every worker."""
    low, high = (0.5 * (1 + math.erf((edge - config.mean) / (config.std * math.sqrt(2)))) for edge in (config.low, 1.0))
    quantile = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64)
    ratio = config.mean + config.std * math.sqrt(2) * float(torch.erfinv(2 * quantile - 1))
    return round((1 - ratio) * tokens)


def set_sizes(tokens: int, sets: int) -> tuple[int, ...]:
    """Tokens taken at each autoregressive step: what remains follows a cosine; empty steps are left out.

    Raises InputError if there are more sets than tokens.
    """
    if not 1 <= sets <= tokens:
        raise InputError(f"sampler.sets is {sets}, but a frame has {tokens} tokens; choose a number from 1 to {tokens}")
    remaining = [round(tokens * math.cos(math.pi / 2 * k / sets)) for k in range(sets)] + [0]
    return tuple(size for size in (before - after for before, after in itertools.pairwise(remaining)) if size)


def permutation(uniform: Float[Tensor, "*s n"]) -> Int[Tensor, "*s n"]:
    """A random order of tokens out of uniform numbers, one order for each leading index."""
    return uniform.argsort(dim=-1)


def partition(
    staticness: Float[Tensor, "b n"],
    uniform: Float[Tensor, "b s n"],
    sizes: tuple[int, ...],
    *,
    rule: Rule,
    temperature: float,
) -> Int[Tensor, "b n"]:
    """The order in which a frame's tokens are generated: `sizes[0]` tokens first, then `sizes[1]`, and so on.

    At step k of K every token that is left gets a noisy score, and the highest are taken (section 4.3; `uniform`
    becomes the Gumbel noise g of each step). `motion_aware`: temperature (1 - k/K) s + g, still tokens first, random at
    the end. `maskgit`: log s + temperature (1 - (k+1)/K) g, MaskGIT's formula to the letter. `maskgit_plain`: the same
    with s itself. `greedy`: s. `random`: g.
    """
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
    taken = torch.zeros_like(staticness, dtype=torch.bool)
    order = []
    for k, size in enumerate(sizes):
        score = _score(staticness, gumbel[:, k], k / len(sizes), (k + 1) / len(sizes), rule, temperature)
        chosen = score.masked_fill(taken, -math.inf).topk(size, dim=-1).indices
        taken = taken.scatter(1, chosen, True)
        order.append(chosen)
    return torch.cat(order, dim=1)


def _score(
    staticness: Float[Tensor, "b n"],
    gumbel: Float[Tensor, "b n"],
    before: float,
    after: float,
    rule: Rule,
    temperature: float,
) -> Float[Tensor, "b n"]:
    match rule:
        case "motion_aware":
            return temperature * (1 - before) * staticness + gumbel
        case "maskgit":
            return staticness.clamp_min(1e-12).log() + temperature * (1 - after) * gumbel
        case "maskgit_plain":
            return staticness + temperature * (1 - after) * gumbel
        case "greedy":
            return staticness
        case "random":
            return gumbel


def set_index(order: Int[Tensor, "b n"], sizes: tuple[int, ...]) -> Int[Tensor, "b n"]:
    """For each token of the grid the step at which it was generated: the order as a picture."""
    steps = torch.cat([order.new_full((size,), step) for step, size in enumerate(sizes)])
    return torch.zeros_like(order).scatter(1, order, steps.expand_as(order))
