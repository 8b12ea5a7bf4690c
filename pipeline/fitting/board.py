"""Messages between the workers and the driver of a training run.

The module imports little, so that its process starts quickly.
"""

from components.telemetry import usage
from pipeline.runtime import cluster  # noqa: F401  before Ray, because it sets the environment that Ray reads

# isort: split
import ray


@ray.remote(num_cpus=0)
class Board:
    """Ray actor for messages between the workers and the driver of a training run, beside `ray.train.report`.

    Reports reach Ray's controller, not the driver, at most two a second, and only between steps that finish. The board
    carries the rest: each step and every line of the log for MLflow and the progress line, warnings, the request to
    stop, the usage of workers, also of those that die, and the error after which no worker should start again.
    """

    def __init__(self) -> None:
        self._step = 0
        self._metrics: list[tuple[int, dict[str, float]]] = []
        self._warnings: list[str] = []
        self._error: str | None = None
        self._stopping = False
        self._usages: dict[str, usage.Usage] = {}

    def post(self, step: int, metrics: dict[str, float]) -> None:
        """Store the last completed step, and its metrics unless they are empty."""
        self._step = step
        if metrics:
            self._metrics.append((step, metrics))

    def warn(self, text: str) -> None:
        """Store a line that the driver prints."""
        self._warnings.append(text)

    def drain(self) -> tuple[int, list[tuple[int, dict[str, float]]], list[str]]:
        """Return the last completed step, and the metrics and warnings since the last call."""
        messages = self._step, self._metrics, self._warnings
        self._metrics, self._warnings = [], []
        return messages

    def report_usage(self, key: str, use: usage.Usage) -> None:
        """Store the usage of a worker so far; it replaces the worker's earlier usage."""
        self._usages[key] = use

    def usages(self) -> dict[str, usage.Usage]:
        """Return the usage of each worker by its key."""
        return self._usages

    def report_error(self, message: str) -> None:
        """Store the message of a worker's InputError if it is the first; workers that start later end at once."""
        self._error = self._error or message

    def error(self) -> str | None:
        """Return the message of the first InputError, or None."""
        return self._error

    def stop(self) -> None:
        """Request that the workers stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Return whether a stop was requested by `stop`."""
        return self._stopping
