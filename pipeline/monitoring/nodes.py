"""System metrics of the other nodes of a Ray cluster: an actor on each logs its CPUs, memory and GPUs."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from components.telemetry.tracking import RunHandle
from pipeline.runtime import cluster  # noqa: F401 -- before Ray, because it sets the environment that Ray reads

# isort: split
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOK_SECONDS: Final = 30.0  # between looks for nodes that joined
STOP_SECONDS: Final = 5.0


@ray.remote(num_cpus=0)
class NodeMetrics:
    """Actor that logs the system metrics of its node."""

    def __init__(self, log: RunHandle, node: str) -> None:
        self._monitor = log.watch(node)

    def stop(self) -> None:
        """Send the last metrics."""
        self._monitor.finish()


@contextmanager
def watched(log: RunHandle) -> Iterator[None]:
    """Log the system metrics of every node during the block, also of nodes that join; the caller logs its own.

    A node or store that does not answer never stops the caller.
    """
    done = threading.Event()
    actors: dict[str, Any] = {}

    def look() -> None:
        own = ray.get_runtime_context().get_node_id()
        while True:
            with suppress(ray.exceptions.RayError):
                for node, name in names(ray.nodes()).items():
                    if node != own and node not in actors:
                        pinned = NodeAffinitySchedulingStrategy(node, soft=False)
                        actor: Any = NodeMetrics.options(scheduling_strategy=pinned)  # type: ignore[attr-defined]
                        actors[node] = actor.remote(log, name)
            if done.wait(LOOK_SECONDS):
                return

    thread = threading.Thread(target=look, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(STOP_SECONDS)
        if actors:
            with suppress(ray.exceptions.RayError):
                ray.wait(
                    [actor.stop.remote() for actor in actors.values()], num_returns=len(actors), timeout=STOP_SECONDS
                )


def names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of the living nodes by id: the host name, with a part of the id if others have the same."""
    living = {node["NodeID"]: node["NodeManagerHostname"] for node in nodes if node["Alive"]}
    hosts = list(living.values())
    return {node: host if hosts.count(host) == 1 else f"{host}-{node[:6]}" for node, host in living.items()}
