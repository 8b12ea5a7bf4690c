"""Connect to a Ray cluster, or start one on this machine."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError, reason
from components.foundation.parallel import cpu_count
from components.telemetry import usage
from components.telemetry.progress import complain
from pipeline.runtime import environment, network

environment.apply(Path.cwd())  # Ray reads its settings only when it is imported

import ray  # noqa: E402
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: E402

AGAIN = "run the same command again"
ATTEMPTS = 3  # to start Ray on a busy machine
DEATHS = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OwnerDiedError,
    ray.exceptions.LocalRayletDiedError,
)
OBJECT_STORE = 400 * 2**20  # bytes; enough, because large data are passed as files


@contextmanager
def connect(root: Path) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS for the block; without RAY_ADDRESS, start Ray on this machine.

    Raise InputError if no cluster answers at RAY_ADDRESS, if Ray cannot run on this machine, or if a process of Ray
    dies in the block without an error of Python.
    """
    variables = environment.variables(root)
    network.require_loopback()
    if address := os.environ.get("RAY_ADDRESS"):
        network.require_cluster(address)
        _require_access(address)
        # workers of a cluster do not inherit this process's environment
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**variables, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}}
        }
    else:
        # the dashboard takes seconds to start and is not needed: stages print progress, and MLflow records their usage
        settings = {"address": "local", "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        settings["num_cpus"] = cpu_count()  # Ray counts CPUs that the process may not use
        settings["_temp_dir"] = network.temporary_folder()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _start(settings)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # replaces Ray's handler, which exits without cleaning up
    usage.TOTAL.node = ray.get_runtime_context().get_node_id()
    try:
        yield
    except ray.exceptions.RayError as error:
        if (message := death_message(error)) is None:
            raise
        raise InputError(message) from None
    finally:
        ray.shutdown()


def _start(settings: dict[str, Any]) -> None:
    """Call `ray.init`, again if a busy machine does not start Ray within the 30 s that Ray waits for itself.

    Raise InputError if no cluster answers, or if Ray has not started after ATTEMPTS calls.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
            return
        except ConnectionError as error:
            raise InputError(
                f"no Ray cluster answers at RAY_ADDRESS ({reason(error)}); correct RAY_ADDRESS or unset it, or set "
                "RAY_AUTH_TOKEN if the cluster rejects your token"
            ) from None
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        if attempt < ATTEMPTS:
            complain("  Ray did not start within 30 s, because this machine is busy; trying again")
    raise InputError(
        f"Ray did not start in {ATTEMPTS} times 30 s, because this machine is busy; run the same command again when it "
        "is not"
    )


def _require_access(address: str) -> None:
    """Raise InputError if the cluster at RAY_ADDRESS refuses our token or the address at which Ray would look for it.

    `ray.init` would repeat warnings for up to minutes.
    """
    parts = network.RAY_ADDRESS.fullmatch(address)
    if parts is None or address.startswith("ray://"):
        return
    if network.is_loopback(parts["host"]):  # Ray replaces it by the machine's address in the network
        network.require_reachable(ray.util.get_node_ip_address(), int(parts["port"]), address)
    try:
        GcsClient(address=address)
    except ray.exceptions.AuthenticationError:
        raise InputError(
            f"the Ray cluster at RAY_ADDRESS={address} refuses the token of this process; set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's token"
        ) from None
    except Exception as error:  # Ray has several classes for it
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason(error)}); correct RAY_ADDRESS or unset it"
        ) from None


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


def death_message(error: BaseException, memory_remedy: str = "close other programs") -> str | None:
    """Return why a process of Ray died, and what to do; None if an error of Python ended it, and for other errors."""
    for wrapper in ("health_check_failure", "_base_exc"):  # of Ray Train
        error = getattr(error, wrapper, error)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return (
            f"Ray stopped workers because a machine's memory was nearly full; {memory_remedy} or use a machine with "
            f"more memory, then {AGAIN}"
        )
    if isinstance(error, DEATHS) and "creation task" not in str(error):  # the actor's own constructor raised
        return (
            "a process of Ray died without an error of Python, as when the system's memory is full or a node is lost; "
            f"{memory_remedy} or use a machine with more memory, then {AGAIN}"
        )
    return None
