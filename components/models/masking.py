"""Training masks, number of tokens per autoregressive step, and generation orders, such as the motion-aware order."""

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Fraction, Positive, Share

Rule = Literal["motion_aware", "maskgit", "maskgit_plain", "random", "greedy"]


class MaskConfig(Config):
    """Mask ratio in training: a normal distribution truncated to [low, 1] (MAR and NOVA: 1.0, 0.25, 0.7)."""

    mean: Fraction  # of the normal distribution before truncation
    std: Positive  # of the normal distribution before truncation
    low: Share  # smallest mask ratio

    @model_validator(mode="after")
    def _reaches(self) -> "MaskConfig":
        below, above = self.quantiles()
        if above - below < 1e-9:
            raise ValueError(
                f"mean {self.mean} and std {self.std} give no mask ratio between low, {self.low}, and 1; raise std"
            )
        return self

    def quantiles(self) -> tuple[float, float]:
        """Return the quantiles of the normal distribution at `low` and at 1."""
        below, above = (0.5 * (1 + math.erf((e - self.mean) / (self.std * math.sqrt(2)))) for e in (self.low, 1.0))
        return below, above


def visible_count(tokens: int, config: MaskConfig, generator: torch.Generator) -> int:
    """Draw the number of visible tokens per frame of a training step.

    The generator must be in the same state on every worker, so that all workers use the same mask ratio.
    """
    low, high = config.quantiles()
    quantile = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64)
    ratio = config.mean + config.std * math.sqrt(2) * float(torch.erfinv(2 * quantile - 1))
    return round((1 - ratio) * tokens)


def visible_grid(tokens: int) -> tuple[int, ...]:
    """Return the numbers of visible tokens used in validation: 0, 1/8, 1/4, 1/2 and 3/4 of a frame, no duplicates."""
    return tuple(sorted({min(round(share * tokens), tokens - 1) for share in (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4)}))


def set_sizes(tokens: int, sets: int) -> tuple[int, ...]:
    """Return the number of tokens generated at each autoregressive step; steps without tokens are left out.

    The number of tokens still masked after each step follows a cosine. Raises InputError unless `sets` is from 1 to
    `tokens`.
    """
    if not 1 <= sets <= tokens:
        raise InputError(f"sampler.sets is {sets}, but a frame has {tokens} tokens; choose a number from 1 to {tokens}")
    remaining = [round(tokens * math.cos(math.pi / 2 * k / sets)) for k in range(sets)] + [0]
    return tuple(size for size in (before - after for before, after in itertools.pairwise(remaining)) if size)


def permutation(uniform: Float[Tensor, "*s n"]) -> Int[Tensor, "*s n"]:
    """Turn uniform random numbers into a random order of the tokens, one order for each leading index."""
    return uniform.argsort(dim=-1)


def partition(
    staticness: Float[Tensor, "b n"],
    uniform: Float[Tensor, "b s n"],
    sizes: tuple[int, ...],
    *,
    rule: Rule,
    temperature: float,
) -> Int[Tensor, "b n"]:
    """Return the token indices in generation order: `sizes[0]` tokens first, then `sizes[1]`, and so on.

    Step k of K scores the remaining tokens and takes those with the highest scores (section 4.3). s is `staticness`;
    g is the step's Gumbel noise, computed from `uniform`. The score of each rule:
    - `motion_aware`: temperature (1 - k/K) s + g, so static tokens come first and the order becomes random at the end
    - `maskgit`: log s + temperature (1 - (k+1)/K) g, exactly MaskGIT's formula
    - `maskgit_plain`: s + temperature (1 - (k+1)/K) g
    - `greedy`: s
    - `random`: g
    """
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
    generated = torch.zeros_like(staticness, dtype=torch.bool)
    order = []
    for k, size in enumerate(sizes):
        score = _score(staticness, gumbel[:, k], k / len(sizes), (k + 1) / len(sizes), rule, temperature)
        chosen = score.masked_fill(generated, -math.inf).topk(size, dim=-1).indices
        generated = generated.scatter(1, chosen, True)
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
    """Return, for each token of the grid, the index of the step at which it is generated."""
    steps = torch.cat([order.new_full((size,), step) for step, size in enumerate(sizes)])
    return torch.zeros_like(order).scatter(1, order, steps.expand_as(order))
