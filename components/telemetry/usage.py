"""What work costs: the processor time, GPU time and memory of every process that did it, and what that is in money."""

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

from components.foundation.config import Config, parse
from components.foundation.settings.ranges import NonNegative

TOLD_EVERY: Final = 10.0  # seconds: what a process that is killed has not told is lost
HOUR: Final = 3600.0


class Prices(Config):
    """What an hour of a processor core and of a GPU costs, in a currency of one's own."""

    currency: Annotated[str, Field(pattern="^[A-Za-z]{1,16}$")]  # part of a metric's name in MLflow, such as EUR
    cpu_hour: NonNegative
    gpu_hour: NonNegative


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has used up: seconds of processor cores and of GPUs, and the most memory that it held, in MiB."""

    node: str
    cpu_seconds: float
    gpu_seconds: float
    peak_memory: float

    def metrics(self) -> dict[str, float]:
        """The same as numbers of a run."""
        hours = {"cpu_hours": self.cpu_seconds / HOUR, "gpu_hours": self.gpu_seconds / HOUR}
        return {**hours, "peak_memory_mib": self.peak_memory}


class Measure:
    """Measures CPU time, GPU time and peak memory of this process from now on; it holds `gpus` GPUs."""

    def __init__(self, node: str, gpus: int) -> None:
        self.key, self.node, self.gpus = uuid.uuid4().hex, node, gpus
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()

    def use(self) -> Use:
        """Return the use up to now."""
        seconds = time.perf_counter() - self._began
        return Use(self.node, _cpu_seconds() - self._cpu, seconds * self.gpus, _peak_memory())

    @contextmanager
    def told(self, tell: Callable[[str, Use], object]) -> Iterator[None]:
        """Report key and use from time to time while the block runs, and once more at its end."""
        over = threading.Event()

        def now_and_then() -> None:
            while not over.wait(TOLD_EVERY):
                tell(self.key, self.use())

        threading.Thread(target=now_and_then, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            tell(self.key, self.use())


@dataclass
class Ledger:
    """What other processes have used for this one: the latest report of each."""

    uses: dict[str, Use] = field(default_factory=dict)
    node: str = field(default_factory=platform.node)  # where this process is, as Ray calls it if it has joined one

    def enter(self, key: str, use: Use) -> None:
        """The word of one process, which replaces what it said before."""
        self.uses[key] = use

    def bill(self, own: Use, gpus: int, seconds: float) -> dict[str, float]:
        """Return the use of this process, on `gpus` GPUs for `seconds`, and of the others, as metrics of a run."""
        uses = [replace(own, node=self.node, gpu_seconds=gpus * seconds), *self.uses.values()]
        cpus, held = sum(use.cpu_seconds for use in uses), sum(use.gpu_seconds for use in uses)
        total = Use(self.node, cpus, held, max(use.peak_memory for use in uses))
        return {**total.metrics(), "node_seconds": seconds * len({use.node for use in uses})}


LEDGER: Final = Ledger()  # of this process, as the kernel keeps one of its children's time


def prices(tables: Mapping[str, Any]) -> Prices | None:
    """The table of prices in params.yaml; None where it is null or left out. Raises InputError if it is wrong."""
    found = tables.get("prices")
    return None if found is None else parse(Prices, found, where="params.yaml: prices")


def paid(used: Mapping[str, float], price: Prices | None) -> dict[str, float]:
    """What the hours of a run cost, as a number of it that names the currency; nothing without prices."""
    if price is None:
        return {}
    return {f"cost_{price.currency}": used["cpu_hours"] * price.cpu_hour + used["gpu_hours"] * price.gpu_hour}


def words(used: Mapping[str, float], price: Prices | None) -> str:
    """The hours of a run for a person, and their price if there is one."""
    hours = f"{used['cpu_hours']:.3g} CPU-hours, {used['gpu_hours']:.3g} GPU-hours"
    sums = "".join(f", {key.removeprefix('cost_')} {value:.3g}" for key, value in paid(used, price).items())
    memory = f"at most {used['peak_memory_mib']:.0f} MiB in a process"
    return f"{hours}, {used['node_seconds']:.0f} node-seconds, {memory}{sums}"


def gpus_here() -> int:
    """1 if this process computes on a GPU, which it takes without asking Ray."""
    torch = sys.modules.get("torch")
    return int(torch is not None and torch.cuda.is_initialized())


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)  # not of children: Ray's workers tell their own
    return used.ru_utime + used.ru_stime


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
