"""Validation on a grid of numbers of visible tokens: the clips of each grid point, and mean losses.

A model with masks has a different loss at every number of visible tokens, so the loss at one number does not show the
others. The grid is fixed: it is the same in every validation, run and worker.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.nn.losses import Losses

Batches = Sequence[tuple[tuple[int, ...], Any]]  # sample ids and batch


@dataclass(frozen=True, slots=True)
class GridBatch:
    """Clips of one batch, and their number of visible tokens."""

    index: int  # index of the batch
    visible: int | None  # number of visible tokens; None for a model without masks
    samples: tuple[int, ...]
    batch: Any


def grid_of(model: Any) -> tuple[int | None, ...]:
    """Return the numbers of visible tokens that a model is validated at: (None,) for a model without masks."""
    return tuple(getattr(model, "visible_grid", (None,)))


def full_grid(batches: Batches, grid: tuple[int | None, ...]) -> Iterator[GridBatch]:
    """Yield each clip at each number of visible tokens."""
    for index, (samples, batch) in enumerate(batches):
        for visible in grid:
            yield GridBatch(index, visible, samples, batch)


def one_point_per_clip(batches: Batches, grid: tuple[int | None, ...]) -> Iterator[GridBatch]:
    """Yield each clip once, with the numbers of visible tokens assigned to clips round-robin.

    With fewer clips than grid points, yield the same as `full_grid`.
    """
    if sum(len(samples) for samples, _ in batches) < len(grid):
        yield from full_grid(batches, grid)
        return
    before = 0
    for index, (samples, batch) in enumerate(batches):
        for point, visible in enumerate(grid):
            rows = slice((point - before) % len(grid), None, len(grid))
            if samples[rows]:
                yield GridBatch(index, visible, samples[rows], batch[rows])
        before += len(samples)


class MeanLosses:
    """Accumulates the mean losses of clips for each number of visible tokens."""

    def __init__(self) -> None:
        self._sums: dict[int | None, dict[str, Tensor]] = {}
        self._clips: dict[int | None, int] = {}

    def add(self, visible: int | None, losses: Losses, clips: int) -> None:
        """Add the mean losses of `clips` clips, evaluated at `visible` tokens."""
        sums = self._sums.setdefault(visible, {})
        for name, value in {"loss": losses.total, **losses.terms}.items():
            sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * clips
        self._clips[visible] = self._clips.get(visible, 0) + clips

    def mean_over_grid(self, prefix: str) -> dict[str, float]:
        """Return the mean of each loss over the numbers of visible tokens, each with equal weight."""
        points = [self._mean_at(visible) for visible in self._sums]
        names = points[0] if points else ()
        return {f"{prefix}{name}": sum(point[name] for point in points) / len(points) for name in names}

    def curve(self, prefix: str) -> dict[str, float]:
        """Return the flow loss at each number of visible tokens; empty without masks.

        The numbers in the names are zero-padded, so that the names sort in numerical order.
        """
        counts = sorted(visible for visible in self._sums if visible is not None and "flow" in self._sums[visible])
        width = max(3, len(str(counts[-1]))) if counts else 0
        return {f"{prefix}flow_visible_{visible:0{width}d}": self._mean_at(visible)["flow"] for visible in counts}

    def _mean_at(self, visible: int | None) -> dict[str, float]:
        return {name: float(total) / self._clips[visible] for name, total in self._sums[visible].items()}
