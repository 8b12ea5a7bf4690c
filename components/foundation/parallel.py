"""The interface of a parallel map; `pipeline/runtime/ray_map.py` implements it with Ray."""

from collections.abc import Callable, Iterable
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
