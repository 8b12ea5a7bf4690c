"""The way to Ray: a cluster to be on, and one task an item. Training and searching have doors of their own."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from components.errors import InputError
from pipeline import environment
from pipeline.progress import meter

environment.apply(Path.cwd())  # Ray reads its settings when it is imported, and not again

import ray  # noqa: E402

T = TypeVar("T")
R = TypeVar("R")
OBJECT_STORE = 400 * 2**20  # bytes; what we send is small, and what is not lies in files


@contextmanager
def connect(root: Path) -> Iterator[None]:
    """The cluster at RAY_ADDRESS, or one of our own on this machine for as long as the block lasts."""
    variables = environment.variables(root)
    if os.environ.get("RAY_ADDRESS"):
        # workers of a cluster inherit nothing from us
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**variables, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}}
        }
    else:
        settings = {"address": "local", "object_store_memory": OBJECT_STORE}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS ({reason}); correct it, or unset it") from None
    try:
        yield
    finally:
        ray.shutdown()


def processors() -> int:
    """CPUs of the cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def device() -> torch.device:
    """Where a single process of ours computes: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_tasks(function: Callable[[T], R], items: Sequence[T], *, label: str, unit: str) -> list[R]:
    """function(item) for every item, each in a task of its own with one CPU, results in the order of the items."""

    @ray.remote(num_cpus=1, max_retries=2)
    def task(item: T) -> R:
        torch.set_num_threads(1)
        return function(item)

    pending = {task.remote(item): index for index, item in enumerate(items)}
    results: dict[int, R] = {}
    with meter(label, len(items), unit) as shown:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            for reference in ready:
                index = pending.pop(reference)
                results[index] = _unwrap(reference)
                shown.advance()
    return [results[index] for index in range(len(items))]


def _unwrap(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
