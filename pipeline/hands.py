"""Pieces of one kind of work, done here or spread over the GPUs or cores of a cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline import cost
from pipeline.cluster import connect, measure, unwrap  # first: it sets what Ray reads when it is imported
from pipeline.progress import Meter, meter

import ray  # isort: skip

T = TypeVar("T")
R = TypeVar("R")
CORES = 2  # of a place where work is spread and there is no GPU: a network gains less from more than from a neighbour


@dataclass(frozen=True, slots=True)
class Hands:
    """Where pieces of work are done: here if there is one place for them, else in Ray actors, one a place."""

    places: int

    def map(
        self,
        make: Callable[[], Callable[[T], R]],
        items: Iterable[T],
        *,
        count: Callable[[T], int],
        total: int,
        label: str,
        unit: str,
    ) -> list[R]:
        """work(item) for every item, in their order; `make` gives the work, once in each place.

        Items are taken as places get free, so that many large ones need little memory; `count` says how many of `total`
        units an item is.
        """
        with meter(label, total, unit) as shown:
            if self.places > 1:
                return self._spread(make, items, count, shown)
            work, results = make(), []
            for item in items:
                results.append(work(item))
                shown.advance(count(item))
            return results

    def _spread(
        self, make: Callable[[], Callable[[T], R]], items: Iterable[T], count: Callable[[T], int], shown: Meter
    ) -> list[R]:
        gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
        hand: Any = ray.remote(num_cpus=0 if gpus else CORES, num_gpus=gpus, max_restarts=2, max_task_retries=2)(_Hand)
        waiting: dict[Any, tuple[Any, int, int]] = {}
        results: dict[int, R] = {}
        actors = 0
        for index, item in enumerate(items):
            if actors < self.places:
                actor, actors = hand.remote(make), actors + 1
            else:
                actor = _next(waiting, results, shown)
            waiting[actor.do.remote(item)] = (actor, index, count(item))
        while waiting:
            _next(waiting, results, shown)
        return [results[index] for index in range(len(results))]


ALONE = Hands(1)


class _Hand:
    """An actor that keeps what its work needs."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        torch.set_num_threads(CORES)
        self.measure = measure()
        self.work = make()

    def do(self, item: Any) -> tuple[Any, str, cost.Use]:
        """A piece of work, and what this actor has used up so far."""
        return self.work(item), self.measure.key, self.measure.use()


def _next(waiting: dict[Any, tuple[Any, int, int]], results: dict[int, Any], shown: Meter) -> Any:
    """Waits for a piece of work; returns the actor that is free again."""
    reference = ray.wait(list(waiting), num_returns=1)[0][0]
    actor, index, units = waiting.pop(reference)
    results[index], key, use = unwrap(reference)
    cost.LEDGER.enter(key, use)
    shown.advance(units)
    return actor


@contextmanager
def spread(root: Path) -> Iterator[Hands]:
    """As many as the GPUs, or as the cores allow, of the cluster at RAY_ADDRESS or of this machine.

    A machine with one GPU, or with few cores and none, works by itself: Ray is not started for it.
    """
    if not os.environ.get("RAY_ADDRESS") and _places(torch.cuda.device_count(), os.cpu_count() or 1) < 2:
        yield Hands(1)
        return
    with connect(root):
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        yield Hands(_places(int(ray.cluster_resources().get("GPU", 0)), *cpus))


def _places(gpus: int, *cpus: int) -> int:
    """One a GPU; without, as many as the machines' cores allow."""
    return gpus or max(1, sum(count // CORES for count in cpus))
