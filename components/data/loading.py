"""The order of samples as a function of the step alone, and batches read ahead of their use.

The state of a loader is one integer: a run that resumes at a step, or runs on another number of workers, sees what the
uninterrupted run on one worker would have seen.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64

from components.errors import InputError
from components.randomness import derive

T = TypeVar("T")


def sample_ids(step: int, *, size: int, batch: int, seed: int) -> tuple[int, ...]:
    """The samples of a global batch: places step * batch onwards in one permutation of the data set an epoch.

    Every epoch of `size` places holds every sample once; a batch may run across the border of two epochs, and nothing
    is dropped. Raises InputError for an empty data set, and for a batch that is empty or larger than the data set.
    """
    if size < 1:
        raise InputError("there are no samples to draw batches from; the data set's split is empty")
    if not 1 <= batch <= size:
        raise InputError(f"a batch of {batch} cannot be drawn from {size} samples; choose a batch between 1 and {size}")
    if step < 0:
        raise ValueError(f"step {step} is negative")
    places = range(step * batch, (step + 1) * batch)
    return tuple(int(_permutation(size, seed, place // size)[place % size]) for place in places)


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most
def _permutation(size: int, seed: int, epoch: int) -> Int64[np.ndarray, "..."]:
    # Philox's raw numbers are fixed for all time, `Generator.permutation` is not
    numbers = np.random.Philox(key=derive(seed, "order", epoch)).random_raw(size)
    order = np.argsort(numbers, kind="stable")
    order.setflags(write=False)
    return order


def share(ids: Sequence[int], rank: int, world: int) -> tuple[int, ...]:
    """The contiguous part of a global batch that belongs to a rank; the ranks' parts in order are the batch.

    Parts differ by one sample at most, and may be empty. Where workers average means over their parts, as gradients do,
    only a batch that `world` divides gives the same result on any number of workers.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
    return tuple(ids[len(ids) * rank // world : len(ids) * (rank + 1) // world])


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """What was read for a step, and the samples it was read for."""

    step: int
    ids: tuple[int, ...]
    data: T


class ReadAhead(Iterator[Batch[T]]):
    """Batches step after step, the next one read by a background thread while this one is used.

    An exception of `read` surfaces where the batch would have come, and ends the iteration. Close it, or use it as a
    context, to wait for the thread; nothing is read after that.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], T], ids: Callable[[int], Sequence[int]], steps: Iterable[int]
    ) -> None:
        """`ids` gives the samples of a step; `steps` is range(start, stop), or itertools.count(start) for ever."""
        self._read = read
        self._ids = ids
        self._steps = iter(steps)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._coming = self._request()

    def __next__(self) -> Batch[T]:
        if self._coming is None:
            raise StopIteration
        try:
            batch = self._coming.result()
        except BaseException:
            self.close()
            raise
        self._coming = self._request()
        if self._coming is None:
            self.close()
        return batch

    def close(self) -> None:
        """Stop reading and end the thread. More than once does no harm."""
        self._coming = None
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "ReadAhead[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self) -> Future[Batch[T]] | None:
        step = next(self._steps, None)
        return None if step is None else self._thread.submit(self._load, step)

    def _load(self, step: int) -> Batch[T]:
        ids = tuple(self._ids(step))
        return Batch(step, ids, self._read(ids))
