"""Resource usage of a stage, summed over its processes: CPU time, GPU time, peak memory, and the cost in money."""

import platform
import resource
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from pydantic import Field

from components.foundation import allocator
from components.foundation.config import Config, parse
from components.foundation.settings.ranges import NonNegative

REPORT_SECONDS: Final = 10.0  # interval between reports; a killed process loses its usage since the last report
HOUR: Final = 3600.0


class Prices(Config):
    """Prices of an hour of one CPU core and of one GPU, in a currency of the user's choice."""

    currency: Annotated[str, Field(pattern="^[A-Za-z]{1,16}$")]  # part of a metric's name in MLflow, such as EUR
    cpu_hour: NonNegative
    gpu_hour: NonNegative


@dataclass(frozen=True, slots=True)
class Usage:
    """Resource usage of a process: CPU seconds, GPU seconds and peak memory in MiB."""

    node: str
    cpu_seconds: float
    gpu_seconds: float
    peak_memory: float

    def metrics(self) -> dict[str, float]:
        """Return the usage as metrics of a run: CPU-hours, GPU-hours and peak memory in MiB."""
        hours = {"cpu_hours": self.cpu_seconds / HOUR, "gpu_hours": self.gpu_seconds / HOUR}
        return {**hours, "peak_memory_mib": self.peak_memory}


class Measure:
    """Measures CPU time, GPU time and peak memory of this process, which reserves `gpus` GPUs, from now on."""

    def __init__(self, node: str, gpus: int) -> None:
        self.key, self.node, self.gpus = uuid.uuid4().hex, node, gpus
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()

    def use(self) -> Usage:
        """Return the usage up to now."""
        seconds = time.perf_counter() - self._began
        return Usage(self.node, _cpu_seconds() - self._cpu, seconds * self.gpus, allocator.peak_memory())

    @contextmanager
    def reporting(self, report: Callable[[str, Usage], object]) -> Iterator[None]:
        """Call report(key, usage) every REPORT_SECONDS while the block runs, and once at its end."""
        over = threading.Event()

        def report_periodically() -> None:
            while not over.wait(REPORT_SECONDS):
                report(self.key, self.use())

        threading.Thread(target=report_periodically, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            report(self.key, self.use())


@dataclass
class UsageTotal:
    """Usage of the processes that worked for this process: the latest report of each."""

    uses: dict[str, Usage] = field(default_factory=dict)
    node: str = field(default_factory=platform.node)  # host name, or Ray's node id in a cluster

    def record(self, key: str, use: Usage) -> None:
        """Store the usage that one process reports; it replaces the earlier report with this key."""
        self.uses[key] = use

    def metrics(self, own: Usage, gpus: int, seconds: float) -> dict[str, float]:
        """Return the usage of this process, on `gpus` GPUs for `seconds`, and of the others as metrics of a run."""
        uses = [replace(own, node=self.node, gpu_seconds=gpus * seconds), *self.uses.values()]
        cpus, held = sum(use.cpu_seconds for use in uses), sum(use.gpu_seconds for use in uses)
        total = Usage(self.node, cpus, held, max(use.peak_memory for use in uses))
        return {**total.metrics(), "node_seconds": seconds * len({use.node for use in uses})}


TOTAL: Final = UsageTotal()  # of this process


def prices(tables: Mapping[str, Any]) -> Prices | None:
    """Return the prices in params.yaml; None if the table is null or missing. Raises InputError if it is invalid."""
    found = tables.get("prices")
    return None if found is None else parse(Prices, found, where="params.yaml: prices")


def cost(used: Mapping[str, float], price: Prices | None) -> dict[str, float]:
    """Return the cost of a run as a metric named after the currency, such as cost_EUR; empty without prices."""
    if price is None:
        return {}
    return {f"cost_{price.currency}": used["cpu_hours"] * price.cpu_hour + used["gpu_hours"] * price.gpu_hour}


def summary(used: Mapping[str, float], price: Prices | None) -> str:
    """Return the usage of a run as one line of text, with its cost if there are prices."""
    hours = f"{used['cpu_hours']:.3g} CPU-hours, {used['gpu_hours']:.3g} GPU-hours"
    sums = "".join(f", {key.removeprefix('cost_')} {value:.3g}" for key, value in cost(used, price).items())
    memory = f"at most {used['peak_memory_mib']:.0f} MiB in a process"
    return f"{hours}, {used['node_seconds']:.0f} node-seconds, {memory}{sums}"


def gpus_here() -> int:
    """Return 1 if this process has initialised CUDA, else 0. Ray does not know of this use of a GPU."""
    torch = sys.modules.get("torch")
    return int(torch is not None and torch.cuda.is_initialized())


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)  # without child processes: Ray's workers report their own
    return used.ru_utime + used.ru_stime
