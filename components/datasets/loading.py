"""Sample order as a function of the step alone, and batches prefetched by a background thread.

The state of a loader is one integer, the step. A run that resumes, or runs with another number of workers, gets the
same batches as an uninterrupted run with one worker.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64

from components.foundation.errors import InputError
from components.foundation.randomness import derive

T = TypeVar("T")


def sample_ids(step: int, *, size: int, batch: int, seed: int) -> tuple[int, ...]:
    """Return the samples of the global batch of a step: `batch` entries of the epochs' permutations, in a row.

    The concatenated permutations list every sample once per epoch. The batch starts at entry step * batch; it may span
    two epochs, and no sample is dropped. Raises InputError if `size` is 0 or `batch` is not between 1 and `size`.
    """
    if size < 1:
        raise InputError(
            "the split is empty, so no batch can be drawn; add videos to it, or change the data set's split"
        )
    if not 1 <= batch <= size:
        raise InputError(f"a batch of {batch} cannot be drawn from {size} samples; choose a batch between 1 and {size}")
    if step < 0:
        raise ValueError(f"step {step} is negative")
    entries = range(step * batch, (step + 1) * batch)
    return tuple(int(_permutation(size, seed, entry // size)[entry % size]) for entry in entries)


@functools.lru_cache(maxsize=2)  # a batch spans at most two epochs
def _permutation(size: int, seed: int, epoch: int) -> Int64[np.ndarray, "..."]:
    # numpy guarantees the same raw numbers of Philox in every version, but not those of `Generator.permutation`
    numbers = np.random.Philox(key=derive(seed, "order", epoch)).random_raw(size)
    order = np.argsort(numbers, kind="stable")
    order.setflags(write=False)
    return order


def share(ids: Sequence[int], rank: int, world: int) -> tuple[int, ...]:
    """Return the contiguous part of a global batch that belongs to a rank; the parts in rank order are the batch.

    The parts' sizes differ by at most one, and a part may be empty. Averaging the parts' means, as data parallelism
    does with gradients, gives the mean over the batch only if the world size divides the batch.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world} workers; it must lie between 0 and {world - 1}")
    return tuple(ids[len(ids) * rank // world : len(ids) * (rank + 1) // world])


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """The batch of one step: the ids of its samples and the data read for them."""

    step: int
    ids: tuple[int, ...]
    data: T


class ReadAhead(Iterator[Batch[T]]):
    """Iterator over the batches of successive steps; a background thread reads one batch ahead.

    An exception in `read` is raised by the `next` call for that batch and ends the iteration. `close`, or the end of
    the context, stops the reading and waits for the thread.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], T], ids: Callable[[int], Sequence[int]], steps: Iterable[int]
    ) -> None:
        """Start to read the first batch.

        `ids` maps a step to its samples, and `read` maps samples to data. `steps` is range(start, stop), or
        itertools.count(start) without an end.
        """
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
        """Stop reading and end the thread. Calling it again is a no-op."""
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
