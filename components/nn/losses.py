"""Losses of one training step: the total to minimise, and its terms for logging."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The total loss to minimise, and its detached terms by name for logging."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]

    @classmethod
    def weighted(cls, terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> "Losses":
        """Return losses whose total is sum_j weights[j] terms[j]; a term without a weight is only logged."""
        total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return cls(total, {name: term.detach() for name, term in terms.items()})

    @classmethod
    def mean(cls, parts: Sequence[tuple[float, "Losses"]]) -> "Losses":
        """Return the detached losses of a batch from (share of the batch, losses) of each of its parts."""
        names = parts[0][1].terms
        total = torch.stack([share * losses.total.detach() for share, losses in parts]).sum()
        terms = {name: torch.stack([share * losses.terms[name] for share, losses in parts]).sum() for name in names}
        return cls(total, terms)
