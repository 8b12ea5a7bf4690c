"""Random numbers as a function: each draw depends on a seed, a sample and a purpose, never on the batch or the rank."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def derive(*parts: str | int) -> int:
    """Return a seed in [0, 2^63) hashed from `parts`: equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Stream:
    """Random numbers of one batch, without state: repeating a call returns the same numbers.

    `samples` identifies the batch's rows (by index in the data set or rollout number). A sample draws the same numbers
    in every batch and on every worker. `seed` is one seed for all rows, or one per row. `path` is the purpose so far.
    `batch_index` is the index of a validation batch. A model may use it to choose a value for each batch; the draws
    do not depend on it.
    """

    seed: int | tuple[int, ...]
    samples: tuple[int, ...]
    path: tuple[str | int, ...] = ()
    device: str = "cpu"
    batch_index: int | None = None

    @classmethod
    def of(cls, seed: int | Sequence[int], samples: Sequence[int], device: str | torch.device = "cpu") -> "Stream":
        """Return a stream for these samples that draws on `device`."""
        return cls(
            seed if isinstance(seed, int) else tuple(seed), tuple(int(sample) for sample in samples), (), str(device)
        )

    def fork(self, *purpose: str | int) -> "Stream":
        """Return the stream of a purpose: its draws are independent of those of other purposes."""
        return replace(self, path=(*self.path, *purpose))

    def for_batch(self, index: int) -> "Stream":
        """Return the same stream for the validation batch with this index; its draws do not change."""
        return replace(self, batch_index=index)

    @property
    def step(self) -> int | None:
        """The training step of this stream: the number after "step" in `path`, or None outside of training."""
        for purpose, number in pairwise(self.path):
            if purpose == "step" and isinstance(number, int):
                return number
        return None

    def shared(self) -> torch.Generator:
        """Return a CPU generator of this purpose that is the same for every sample, batch and worker."""
        assert isinstance(self.seed, int), "rows with seeds of their own have no shared generator"
        return torch.Generator().manual_seed(derive(self.seed, *self.path))

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Return unit normal numbers (b, *shape), drawn per sample."""
        return self._each(shape, torch.randn)

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Return uniform numbers in [0, 1) of shape (b, *shape), drawn per sample."""
        return self._each(shape, torch.rand)

    def _each(self, shape: tuple[int, ...], draw) -> Tensor:  # type: ignore[no-untyped-def]
        generator = torch.Generator(self.device)
        seeds = (self.seed,) * len(self.samples) if isinstance(self.seed, int) else self.seed
        rows = []
        for seed, sample in zip(seeds, self.samples, strict=True):
            generator.manual_seed(derive(seed, sample, *self.path))
            rows.append(draw(shape, generator=generator, device=self.device))
        return torch.stack(rows)
