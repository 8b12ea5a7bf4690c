"""What each step measured, kept on the device until a line of the log is due; and the signs that a training is lost."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, distributed

from components.errors import InputError

EXPLODED: Final = 100.0  # times the lowest loss of an interval so far, and most steps of the interval are above it


@dataclass(slots=True)
class Window:
    """The steps since the last line of the log, and the lowest mean loss of an interval so far."""

    lowest: float = math.inf
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(default_factory=list)  # on the device: one number for each name
    samples: list[tuple[int, ...]] = field(default_factory=list)  # of this worker

    def add(self, samples: tuple[int, ...], values: Mapping[str, Tensor]) -> None:
        """What one step measured; the host does not wait for it."""
        self.names = tuple(values)
        self.rows.append(torch.stack([value.detach().float() for value in values.values()]))
        self.samples.append(samples)

    def check(self, step: int) -> None:
        """Means over the workers take the place of this worker's numbers; the host waits for the device here.

        `step` is that of the last row. Raises InputError if a number is not finite or the loss has exploded, on all
        workers alike, with the step, its numbers and the samples of every worker.
        """
        table = mean_over_workers(torch.stack(self.rows))
        self.rows = list(table)
        values = table.tolist()
        first = step - len(values) + 1
        for place, row in enumerate(values):
            if not all(map(math.isfinite, row)):
                raise self._lost("is not finite", first + place, row, self.samples[place])
        losses = [row[self.names.index("loss")] for row in values]
        if 0 < EXPLODED * self.lowest < statistics.median_low(losses):
            place = next(place for place, loss in enumerate(losses) if loss > EXPLODED * self.lowest)
            why = f"has exploded, it was {self.lowest:.4g},"
            raise self._lost(why, first + place, values[place], self.samples[place])

    def close(self) -> dict[str, float]:
        """The means of an interval that was checked; a new one begins."""
        means = dict(zip(self.names, torch.stack(self.rows).mean(0).tolist(), strict=True))
        self.lowest = min(self.lowest, means["loss"])
        self.rows, self.samples = [], []
        return means

    def state(self) -> dict[str, Any]:
        """What a training that goes on must know, for its log to be that of one that was never stopped."""
        return {
            "lowest": self.lowest,
            "names": list(self.names),
            "rows": list(self.rows),
            "samples": [list(ids) for ids in self.samples],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> "Window":
        """The window of this state."""
        rows = [row.to(device) for row in state["rows"]]
        return cls(state["lowest"], tuple(state["names"]), rows, [tuple(ids) for ids in state["samples"]])

    def _lost(self, why: str, step: int, row: Sequence[float], samples: tuple[int, ...]) -> InputError:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, row, strict=True))
        return InputError(
            f"the loss {why} at step {step} ({terms}; samples {list(of_all_workers(samples))}); lower the learning "
            "rate, or look for damaged clips among these samples; the last checkpoint before it is kept"
        )


def mean_over_workers(x: Tensor) -> Tensor:
    """The mean of this tensor over all workers; itself where there is one."""
    if team() == 1:
        return x
    total = x.clone()
    distributed.all_reduce(total)
    return total / team()


def of_all_workers(samples: tuple[int, ...]) -> tuple[int, ...]:
    """The samples of all workers, in their order."""
    if team() == 1:
        return samples
    parts: list[Any] = [None] * team()
    distributed.all_gather_object(parts, samples)
    return tuple(sample for part in parts for sample in part)


def team() -> int:
    """How many workers train together now."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
