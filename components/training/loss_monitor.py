"""Metrics of each step, kept on the device until they are logged, and checks for NaN and an exploding loss."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, distributed

from components.foundation.errors import InputError

EXPLODED: Final = 100.0  # a loss has exploded if most steps of an interval exceed this multiple of the lowest mean loss


@dataclass(slots=True)
class LossMonitor:
    """Metrics of the steps since the last log entry, and the lowest mean loss of any interval so far."""

    lowest: float = math.inf
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)  # one per step, on the device: a value for each name
    samples: list[tuple[int, ...]] = field(default_factory=list)  # one per step: sample ids of this worker

    def add(self, samples: tuple[int, ...], values: Mapping[str, Tensor]) -> None:
        """Add the metrics of one step, without synchronising with the device."""
        self.names = tuple(values)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))
        self.samples.append(samples)

    def check(self, step: int) -> None:
        """Replace this worker's metrics by means over all workers, and check them. Synchronises with the device.

        `step` is the last added step. Raise InputError, on all workers alike, if a metric is not finite or the loss has
        exploded. The error names the step, its metrics and the samples of every worker.
        """
        table = mean_over_workers(torch.stack(self.rows))
        self.rows = list(table)
        values = table.tolist()
        first = step - len(values) + 1
        for index, row in enumerate(values):
            if not all(map(math.isfinite, row)):
                raise self._error("is not finite", first + index, row, self.samples[index])
        losses = [row[self.names.index("loss")] for row in values]
        if 0 < EXPLODED * self.lowest < statistics.median_low(losses):
            index = next(index for index, loss in enumerate(losses) if loss > EXPLODED * self.lowest)
            problem = f"has exploded (lowest mean so far {self.lowest:.4g})"
            raise self._error(problem, first + index, values[index], self.samples[index])

    def close(self) -> dict[str, float]:
        """Return the means of the interval, which must be checked, and start a new interval."""
        means = dict(zip(self.names, torch.stack(self.rows).mean(0).tolist(), strict=True))
        self.lowest = min(self.lowest, means["loss"])
        self.rows, self.samples = [], []
        return means

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed training run needs to log the same metrics as an uninterrupted one."""
        return {
            "lowest": self.lowest,
            "names": list(self.names),
            "rows": list(self.rows),
            "samples": [list(ids) for ids in self.samples],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> "LossMonitor":
        """Return the monitor with this state, with its metrics on `device`."""
        rows = [row.to(device) for row in state["rows"]]
        return cls(state["lowest"], tuple(state["names"]), rows, [tuple(ids) for ids in state["samples"]])

    def _error(self, problem: str, step: int, row: Sequence[float], samples: tuple[int, ...]) -> InputError:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, row, strict=True))
        return InputError(
            f"the loss {problem} at step {step} ({terms}; samples {list(gather_samples(samples))}); lower the learning "
            "rate, or check these samples for damaged clips; the last checkpoint before this step is kept"
        )


def mean_over_workers(x: Tensor) -> Tensor:
    """Return the mean of this tensor over all workers; the tensor itself for a single worker."""
    if world_size() == 1:
        return x
    total = x.clone()
    distributed.all_reduce(total)
    return total / world_size()


def gather_samples(samples: tuple[int, ...]) -> tuple[int, ...]:
    """Return the samples of all workers, in the order of ranks."""
    if world_size() == 1:
        return samples
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, samples)
    return tuple(sample for part in parts for sample in part)


def world_size() -> int:
    """Return the number of workers of this training run; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
