"""Connect to a Ray cluster, or start one on this machine."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.telemetry import usage
from pipeline.runtime import environment, network

environment.apply(Path.cwd())  # Ray reads its settings only when it is imported

import ray  # noqa: E402

OBJECT_STORE = 400 * 2**20  # bytes; enough, because large data are passed as files


@contextmanager
def connect(root: Path) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS for the block; without RAY_ADDRESS, start Ray on this machine.

    Raise InputError if no cluster answers at RAY_ADDRESS, or if Ray cannot run on this machine.
    """
    variables = environment.variables(root)
    network.require_loopback()
    if address := os.environ.get("RAY_ADDRESS"):
        network.require_cluster(address)
        # workers of a cluster do not inherit this process's environment
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**variables, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}}
        }
    else:
        # the dashboard takes seconds to start and is not needed: stages print progress, and MLflow records their usage
        settings = {"address": "local", "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        settings["_temp_dir"] = network.temporary_folder()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS ({reason}); correct RAY_ADDRESS or unset it, or set RAY_AUTH_TOKEN "
            "if the cluster rejects your token"
        ) from None
    except Exception as error:  # Ray has no class for it
        if "timed out during startup" not in str(error):
            raise
        raise InputError(
            "Ray did not start within 30 s, because this machine is busy; run the same command again when it is not"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # replaces Ray's handler, which exits without cleaning up
    usage.TOTAL.node = ray.get_runtime_context().get_node_id()
    try:
        yield
    finally:
        ray.shutdown()


def measure() -> usage.Measure:
    """Return a `usage.Measure` of this Ray task or actor, which starts now."""
    return usage.Measure(ray.get_runtime_context().get_node_id(), len(ray.get_gpu_ids()))


def cpus_per_task(tasks: int, *, gpu: bool = False) -> int:
    """Return how many CPUs each of `tasks` concurrent tasks can reserve on its node, with one GPU each if `gpu`."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def capacity(cpus: int) -> int:
        slots = [(int(node.get("CPU", 0)) // cpus, int(node.get("GPU", 0))) for node in nodes]
        return sum(min(by_cpus, gpus) if gpu else by_cpus for by_cpus, gpus in slots)

    total = int(ray.cluster_resources().get("CPU", 1))
    return next((cpus for cpus in range(total, 1, -1) if capacity(cpus) >= tasks), 1)


def unwrap(reference: Any) -> Any:
    """Return the result of a task. If the task raised an InputError, raise it without Ray's wrapper."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise


def memory_message(error: BaseException) -> str | None:
    """Return what to do if Ray stopped a worker because its machine's memory was nearly full; None for other errors."""
    if not isinstance(error, ray.exceptions.OutOfMemoryError):
        return None
    return (
        "Ray stopped workers because a machine's memory was nearly full; close other programs or use a machine with "
        "more memory, then run the same command again"
    )
