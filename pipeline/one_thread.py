"""One thread for all that torch computes in a process whose requests come on many.

Each thread that computes has helpers of its own, and once all of them together are more than the CPUs, OpenMP lets
them sleep between any two loops: on two CPUs the same prediction took 3.5 s instead of 1.5 s when the model had been
warmed up on another thread.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")
THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="torch")


def compute(function: Callable[..., T], *arguments: Any) -> T:
    """What the function gives or raises, computed on that thread; not to be called from there."""
    return THREAD.submit(function, *arguments).result()


async def advance(iterator: Iterator[T]) -> T | None:
    """The iterator's next item, None after the last one, while other coroutines go on."""
    return await asyncio.get_running_loop().run_in_executor(THREAD, next, iterator, None)


def through(iterator: Iterator[T]) -> Iterator[T]:
    """The items of an iterator that gives no None, each made on that thread."""
    while (item := compute(next, iterator, None)) is not None:
        yield item
