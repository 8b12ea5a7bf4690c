"""The interface of a parallel map, which `pipeline/runtime/ray_map.py` implements with Ray; and the number of CPUs."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
R = TypeVar("R")


def one(item: object) -> int:
    """Return 1, the default number of units of an item."""
    return 1


@runtime_checkable
class ParallelMap(Protocol):
    """Applies a function to many items, in this process or on several workers."""

    @property
    def num_workers(self) -> int:
        """Number of workers; 1 runs the function in this process."""

    def __call__(
        self,
        load: Callable[[], Callable[[T], R]],
        items: Iterable[T],
        *,
        total: int,
        label: str,
        unit: str,
        size: Callable[[T], int] = one,
    ) -> list[R]:
        """Return function(item) of every item, in order; each worker calls `load` once to get the function.

        Progress is shown under `label`, as a count of `total` units; `size` returns the units of an item.
        """


def cpu_count(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many CPUs this process may use: those of its affinity, and at most its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing outside Linux
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(count, int(_quota(cgroup) or count)))


def _quota(cgroup: Path) -> float | None:
    """Return the CPU quota of a container from its control group, version 2 or 1; None without a quota."""
    try:
        if (limit := cgroup / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no control group, or "max"
        return None
