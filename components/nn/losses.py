"""What one training step hands to the loop: a number to go down, and the numbers to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss to minimise, and its parts by name, detached, for the log."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]

    @classmethod
    def weighted(cls, terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> "Losses":
        """sum_j weights[j] terms[j]; a term without a weight is only logged."""
        total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return cls(total, {name: term.detach() for name, term in terms.items()})

    @classmethod
    def mean(cls, parts: Sequence[tuple[float, "Losses"]]) -> "Losses":
        """The losses of a batch out of those of its parts and their shares of it; all detached."""
        names = parts[0][1].terms
        total = torch.stack([share * losses.total.detach() for share, losses in parts]).sum()
        terms = {name: torch.stack([share * losses.terms[name] for share, losses in parts]).sum() for name in names}
        return cls(total, terms)
