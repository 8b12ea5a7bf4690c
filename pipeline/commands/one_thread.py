"""Run all torch computations of a process on one thread, whichever thread a request arrives on.

OpenMP starts its own worker threads for every thread that computes. If they outnumber the CPUs, OpenMP puts them to
sleep between two loops: on two CPUs, a prediction took 3.5 s instead of 1.5 s if another thread had run the warm-up.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")
THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="torch")


def compute(function: Callable[..., T], *arguments: Any) -> T:
    """Call the function on the torch thread, and return its result or raise its exception.

    A call from the torch thread itself would deadlock.
    """
    return THREAD.submit(function, *arguments).result()


async def next_item(iterator: Iterator[T]) -> T | None:
    """Compute the iterator's next item on the torch thread, without blocking the event loop; None after the last."""
    return await asyncio.get_running_loop().run_in_executor(THREAD, next, iterator, None)


def iterate(iterator: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, each computed on the torch thread. No item may be None."""
    while (item := compute(next, iterator, None)) is not None:
        yield item
