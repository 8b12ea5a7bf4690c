"""Chance as a value: every draw belongs to a seed, a sample and a purpose, never to a batch or a rank."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def derive(*parts: str | int) -> int:
    """A seed in [0, 2^63) that belongs to these parts: the same parts give the same seed on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Stream:
    """The chance of one batch: asked twice for the same purpose it answers the same, whatever came between.

    `samples` are the identities of the batch's rows (indices in the data set, or numbers of rollouts); a sample draws
    the same numbers in every batch and on every worker. `seed` is that of all rows, or one for each of them. `path` is
    the purpose so far.
    """

    seed: int | tuple[int, ...]
    samples: tuple[int, ...]
    path: tuple[str | int, ...] = ()
    device: str = "cpu"

    @classmethod
    def of(cls, seed: int | Sequence[int], samples: Sequence[int], device: str | torch.device = "cpu") -> "Stream":
        """The chance of these samples, drawn on this device."""
        return cls(
            seed if isinstance(seed, int) else tuple(seed), tuple(int(sample) for sample in samples), (), str(device)
        )

    def fork(self, *purpose: str | int) -> "Stream":
        """The part of this chance that belongs to a purpose."""
        return replace(self, path=(*self.path, *purpose))

    @property
    def step(self) -> int | None:
        """The step of a training that this chance belongs to: what was forked after `step`; None outside of one."""
        for word, number in pairwise(self.path):
            if word == "step" and isinstance(number, int):
                return number
        return None

    def shared(self) -> torch.Generator:
        """A CPU generator that is the same for every sample, batch and worker."""
        assert isinstance(self.seed, int), "rows with seeds of their own share no chance"
        return torch.Generator().manual_seed(derive(self.seed, *self.path))

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Unit normal numbers of this shape for every sample."""
        return self._each(shape, torch.randn)

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers in [0, 1) of this shape for every sample."""
        return self._each(shape, torch.rand)

    def _each(self, shape: tuple[int, ...], draw) -> Tensor:  # type: ignore[no-untyped-def]
        generator = torch.Generator(self.device)
        seeds = (self.seed,) * len(self.samples) if isinstance(self.seed, int) else self.seed
        rows = []
        for seed, sample in zip(seeds, self.samples, strict=True):
            generator.manual_seed(derive(seed, sample, *self.path))
            rows.append(draw(shape, generator=generator, device=self.device))
        return torch.stack(rows)
