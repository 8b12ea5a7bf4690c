"""The way to Ray: a cluster to be on, and one task an item. Training and searching have doors of their own."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from components.errors import InputError
from pipeline import cost, environment
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
        # without Ray's dashboard, which takes seconds to start: a stage shows its progress, and MLflow what it used
        settings = {"address": "local", "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS ({reason}); correct it, or unset it") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place, which ends us on the spot
    cost.LEDGER.node = ray.get_runtime_context().get_node_id()
    try:
        yield
    finally:
        ray.shutdown()


def measure() -> cost.Measure:
    """What this task or actor uses from here on."""
    return cost.Measure(ray.get_runtime_context().get_node_id(), len(ray.get_gpu_ids()))


def processors() -> int:
    """CPUs of the cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def share(parts: int, *, gpu: bool = False) -> int:
    """The most CPUs that each of so many parts can have at once, a part being on one node, and with a GPU if asked."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def places(cpus: int) -> int:
        held = [(int(node.get("CPU", 0)) // cpus, int(node.get("GPU", 0))) for node in nodes]
        return sum(min(place) if gpu else place[0] for place in held)

    return next((cpus for cpus in range(processors(), 1, -1) if places(cpus) >= parts), 1)


def device() -> torch.device:
    """Where a single process of ours computes: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_tasks(function: Callable[[T], R], items: Sequence[T], *, label: str, unit: str) -> list[R]:
    """function(item) for every item, each in a task of its own with one CPU, results in the order of the items.

    Tasks work in this process's folder, on whatever node they are, so that relative paths mean the same there.
    """
    folder = Path.cwd()

    @ray.remote(num_cpus=1, max_retries=2)
    def task(item: T) -> tuple[R, str, cost.Use]:
        os.chdir(folder)  # workers of a cluster begin where it was started
        torch.set_num_threads(1)
        used = measure()
        return function(item), used.key, used.use()

    pending = {task.remote(item): index for index, item in enumerate(items)}
    results: dict[int, R] = {}
    with meter(label, len(items), unit) as shown:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            for reference in ready:
                index = pending.pop(reference)
                results[index], key, use = unwrap(reference)
                cost.LEDGER.enter(key, use)
                shown.advance()
    return [results[index] for index in range(len(items))]


def unwrap(reference: Any) -> Any:
    """The result behind a reference. Raises the InputError that a task raised as it was."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
