"""Map a function over items: in this process, or on Ray actors."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from components.foundation.errors import InputError
from components.foundation.parallel import cpu_count, one
from components.telemetry import usage
from components.telemetry.progress import meter
from pipeline.runtime import cluster  # before Ray, because it sets the environment that Ray reads

import ray  # isort: skip

T = TypeVar("T")
R = TypeVar("R")
RETRIES: Final = 2  # of an item whose worker died; also the total for workers that die at their start
NETWORK_CPUS: Final = 2  # per worker that runs a network on CPUs; more CPUs help less than more workers


@dataclass(frozen=True, slots=True)
class RayMap:
    """Applies a function to many items, in this process or on several Ray actors."""

    num_workers: int
    num_cpus: int = 1  # threads of each worker, and CPUs if it has no GPU
    num_gpus: int = 0

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

        Progress is shown under `label`, as a count of `total` units; `size` returns the units of an item. Items are
        taken from the iterable as workers become free, to save memory. Workers run in this process's folder. If a
        worker dies, another one processes its item again. Raise the InputError that the function raised. Raise
        InputError too if three workers die at one item.
        """
        results: dict[int, R] = {}
        with meter(label, total, unit) as progress:
            for index, item, result in (self._inline if self.num_workers == 1 else self._on_ray)(load, items):
                results[index] = result
                progress.advance(size(item))
        return [results[index] for index in range(len(results))]

    @staticmethod
    def _inline(load: Callable[[], Callable[[T], R]], items: Iterable[T]) -> Iterator[tuple[int, T, R]]:
        function = load()
        for index, item in enumerate(items):
            yield index, item, function(item)

    def _on_ray(self, load: Callable[[], Callable[[T], R]], items: Iterable[T]) -> Iterator[tuple[int, T, R]]:
        """Yield each result when it is ready. Only started workers get items, because some may never find free CPUs."""
        actor: Any = ray.remote(num_cpus=0 if self.num_gpus else self.num_cpus, num_gpus=self.num_gpus)(_Worker)
        queue = enumerate(items)
        waiting = deque(itertools.islice(queue, self.num_workers))  # taken from the iterable, not yet assigned
        pending: dict[Any, tuple[Any, tuple[int, T] | None]] = {}  # worker and task by reference; task None: starting
        deaths: Counter[int | None] = Counter()  # deaths of workers, by the index of their item

        def launch() -> None:
            worker = actor.remote(self.num_cpus)
            pending[worker.load.remote(load, Path.cwd())] = worker, None

        for _ in range(len(waiting)):
            launch()
        while waiting or any(task for _, task in pending.values()):
            (reference,), _ = ray.wait(list(pending), num_returns=1)
            worker, task = pending.pop(reference)
            try:
                result, key, use = cluster.unwrap(reference)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:  # the worker or its node died
                index = task[0] if task else None
                deaths[index] += 1
                if deaths[index] > RETRIES:
                    raise _death(error, index) from None
                waiting.extendleft([task] if task else [])
                launch()
                continue
            usage.TOTAL.record(key, use)
            if task is not None:
                yield *task, result
            next_task = waiting.popleft() if waiting else next(queue, None)
            if next_task is not None:
                pending[worker.run.remote(next_task[1])] = worker, next_task


INLINE: Final = RayMap(1)


def _death(error: ray.exceptions.RayError, index: int | None) -> InputError:
    """Return the error for an item at which RETRIES + 1 workers died: the reason if Ray knows it, and what to do."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return InputError(str(cluster.death_message(error)))
    where = "at its start" if index is None else f"at input {index + 1}"
    return InputError(
        f"{RETRIES + 1} worker processes died {where} without a Python error; the system's memory may be full, or a "
        "file may crash the library that reads it: close other programs or remove the file, then run the same command "
        "again"
    )


class _Worker:
    """Ray actor that loads a function, such as a model, once and applies it to many items."""

    def __init__(self, num_cpus: int) -> None:
        torch.set_num_threads(num_cpus)
        self.measure = cluster.measure()

    def load(self, load: Callable[[], Callable[[Any], Any]], folder: Path) -> tuple[None, str, usage.Usage]:
        """Change to this folder and load the function; return None and the usage so far."""
        os.chdir(folder)  # workers of a cluster start in the cluster's folder
        self.function = load()
        return None, self.measure.key, self.measure.use()

    def run(self, item: Any) -> tuple[Any, str, usage.Usage]:
        """Return function(item) and the usage of this worker so far."""
        return self.function(item), self.measure.key, self.measure.use()


@contextmanager
def connect(root: Path, *, num_cpus: int, use_gpu: bool) -> Iterator[RayMap]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray here, and yield a map that uses all its resources.

    There is one worker per GPU if `use_gpu` and there are GPUs, else one per `num_cpus` CPUs. Without RAY_ADDRESS, if
    this machine has resources for only one worker, the map runs inline and Ray is not started.
    """
    gpus = torch.cuda.device_count() if use_gpu else 0
    if not os.environ.get("RAY_ADDRESS") and (gpus or cpu_count() // num_cpus) < 2:
        yield RayMap(1)
        return
    with cluster.connect(root):
        gpus = int(ray.cluster_resources().get("GPU", 0)) if use_gpu else 0
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        yield RayMap(gpus or max(1, sum(count // num_cpus for count in cpus)), num_cpus, min(1, gpus))
