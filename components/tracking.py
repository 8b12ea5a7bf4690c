"""A run in MLflow: parameters, metrics, artifacts and where it came from.

The only door to mlflow, which is imported when a run is first opened. Once a run has begun, nothing that happens to the
tracking store stops the work: what cannot be logged is kept or warned about, and the caller goes on.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import psutil
from jaxtyping import UInt8

from components import workspace
from components.errors import InputError

EXPERIMENT: Final = "canvasmar"
FLUSH_SECONDS: Final = 5.0
SYSTEM_SECONDS: Final = 10.0
LONGEST_PARAMETER: Final = 6000  # characters, MLflow's limit
LONGEST_TAG: Final = 5000
LONGEST_DIGEST: Final = 36
LARGEST_BATCH: Final = 1000  # metrics in one call; parameters: a tenth

_log = logging.getLogger(__name__)


@runtime_checkable
class Figure(Protocol):
    """What can draw itself into a file: a matplotlib figure."""

    def savefig(self, fname: Path, **options: Any) -> object:
        """Draw into a file."""
        ...


def uri(root: Path) -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, or the SQLite file in the project's mlruns folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.runs(root)}/mlflow.db"


def prepare(uri: str, root: Path) -> str:
    """The id of our experiment in this store, which is created where it is missing; any number of processes may ask.

    Artifacts of a SQLite store lie beside its file, of another database in the project's mlruns folder; a server
    decides. Runs of this machine whose process is gone are marked as killed. Raises InputError if it cannot be used.
    """
    file = Path(uri.removeprefix("sqlite:///")).resolve()
    folder = file.parent if uri.startswith("sqlite:") else workspace.runs(root)
    # two processes that make the tables at once break each other
    alone = nullcontext() if _served(uri) else _locked(folder / ".prepare.lock")
    with _usable(uri), alone:
        client = connect(uri)
        experiment = _experiment(client, None if _served(uri) else str(folder / "artifacts"))
        _end_abandoned(client, experiment)
    return experiment


@contextmanager
def run(
    name: str, *, root: Path, tags: Mapping[str, str], parameters: Mapping[str, Any], parent: str | None = None
) -> Iterator["Run"]:
    """A run for as long as the block lasts: then FINISHED, after an exception FAILED, when interrupted KILLED.

    `parameters` are flat (`config.flatten`); `parent` is the id of the run that this one is shown under. The use of
    processor, memory and GPU is logged beside. Raises InputError if the store cannot be used.
    """
    where = uri(root)
    experiment = prepare(where, root)
    with _usable(where):
        handle = _begin(RunHandle(where, experiment, "", parent), name, tags)
    with _ended(Run(handle, watch=True), parameters) as begun:
        yield begun


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run's address, which travels to other processes and machines."""

    uri: str
    experiment: str
    run: str
    parent: str | None

    def open(self) -> "Run":
        """The same run from here; use it in a `with` block or close it: its end belongs to whoever began it."""
        return Run(self, watch=False)

    @contextmanager
    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> Iterator["Run"]:
        """A run below this one for as long as the block lasts; a store out of reach does not stop the block."""
        handle = RunHandle(self.uri, self.experiment, "", self.run)
        try:
            handle = _begin(handle, name, tags or {})
        except Exception as error:
            _log.warning("the run %s could not be opened in %s: %s", name, _shown(self.uri), _brief(error))
        with _ended(Run(handle, watch=False), parameters) as begun:
            yield begun


class Run:
    """An open run. Metrics are buffered and sent by a thread every few seconds; everything else is sent at once."""

    def __init__(self, handle: RunHandle, *, watch: bool) -> None:
        self.handle = handle
        self._client = connect(handle.uri)
        self._pending: list[tuple[str, float, int, int]] = []
        self._lock, self._sending, self._over = threading.Lock(), threading.Lock(), threading.Event()
        self._warned: set[str] = set()
        self._monitor: Any = None
        if watch:
            self._attempt("system metrics", self._watch)
        self._sender = threading.Thread(target=self._send_now_and_then, name="tracking", daemon=True)
        self._sender.start()

    @property
    def id(self) -> str:
        """MLflow's id of the run."""
        return self.handle.run

    @property
    def link(self) -> str:
        """The run's page: on the server, or where `make ui` serves a local store."""
        server = _shown(self.handle.uri) if _served(self.handle.uri) else "http://127.0.0.1:5000"
        return f"{server}/#/experiments/{self.handle.experiment}/runs/{self.id}"

    def metrics(self, values: Mapping[str, float | int], step: int | None = None) -> None:
        """Numbers of a step, or of the run as a whole."""
        now = int(time.time() * 1000)
        rows = [(re.sub(r"[^/\w.\- ]", "_", key), float(value), now, step or 0) for key, value in values.items()]
        with self._lock:
            self._pending += rows

    def artifact(self, path: Path, folder: str = "") -> bool:
        """A file or a folder, copied into the run's artifacts, below `folder` if one is named; False if it was not."""
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        return self._attempt("artifacts", lambda: send(self.id, str(path), folder or None))

    def image(self, picture: UInt8[np.ndarray, "h w 3"], key: str, step: int) -> bool:
        """A picture of a step, which the UI shows with a slider; False if it did not get there."""
        return self._attempt("images", lambda: self._client.log_image(self.id, picture, key=key, step=step))

    def figure(self, figure: Figure, path: str) -> None:
        """A matplotlib figure, drawn into the run's artifacts at `path`, such as `figures/loss.png`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            figure.savefig(file)
            self.artifact(file, Path(path).parent.as_posix().removeprefix("."))

    def tags(self, values: Mapping[str, str]) -> None:
        """Words about the run, searchable in the UI."""
        from mlflow.entities import RunTag

        words = [RunTag(key, str(value)[:LONGEST_TAG]) for key, value in values.items()]
        self._attempt("tags", lambda: self._client.log_batch(self.id, tags=words))

    def dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Data that the run read: where they lie, their hash, and what they were for, such as `training`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(name, digest[:LONGEST_DIGEST], "local", json.dumps({"uri": source}))
        read = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._attempt("data sets", lambda: self._client.log_inputs(self.id, datasets=[read]))

    def flush(self) -> bool:
        """Send the buffered metrics. False if some are still here, because the store is out of reach."""
        from mlflow.entities import Metric

        with self._sending:  # the thread and the caller send in turn, so that nothing is sent twice
            while self._pending:
                with self._lock:
                    rows = self._pending[:LARGEST_BATCH]
                batch = [Metric(*row) for row in rows]
                if not self._attempt("metrics", partial(self._client.log_batch, self.id, metrics=batch)):
                    return False
                with self._lock:
                    del self._pending[: len(rows)]
        return True

    def close(self, status: str | None = None) -> None:
        """Send what is left; with a status (FINISHED, FAILED, KILLED) the run ends, and its open children with it."""
        self._over.set()
        self._sender.join()
        if not self.flush():
            _log.warning("%d metrics of run %s were not logged", len(self._pending), self.id)
        if self._monitor is not None:
            self._monitor.finish()
        if status is not None:
            self._attempt("children", lambda: _end_children(self._client, self.handle.experiment, self.id))
            self._attempt("the end", lambda: self._client.set_terminated(self.id, status))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parameters(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        texts = {
            key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in values.items()
        }
        if any(len(text) > LONGEST_PARAMETER for text in texts.values()):
            self._attempt("parameters", lambda: self._client.log_dict(self.id, texts, "parameters.json"))
        entries = [Param(key, text[:LONGEST_PARAMETER]) for key, text in texts.items()]
        for start in range(0, len(entries), LARGEST_BATCH // 10):
            part = entries[start : start + LARGEST_BATCH // 10]
            self._attempt("parameters", partial(self._client.log_batch, self.id, params=part))

    def _watch(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.id, SYSTEM_SECONDS, tracking_uri=self.handle.uri)
        self._monitor.start()

    def _send_now_and_then(self) -> None:
        while not self._over.wait(FLUSH_SECONDS):
            self.flush()

    def _attempt(self, what: str, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # whatever a store does, the work goes on
            if what not in self._warned:
                place = _shown(self.handle.uri)
                _log.warning("%s of run %s cannot be logged to %s now: %s", what, self.id, place, _brief(error))
            self._warned.add(what)
            return False
        self._warned.discard(what)
        return True


def provenance(root: Path) -> dict[str, str]:
    """Where a run comes from: commit, stage, versions and machine, as tags; what is unknown is left out."""
    git, lock = ("git", "-C", str(root)), root / "dvc.lock"
    changes = _output(*git, "status", "--porcelain")
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata", {}).get("job_submission_id")
    found = {
        "commit": _output(*git, "rev-parse", "HEAD"),
        "dirty": None if changes is None else str(bool(changes)).lower(),
        "dvc_lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else None,
        "dvc_stage": os.environ.get("DVC_STAGE"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "ray_job": job or os.environ.get("RAY_JOB_ID"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "ray": _version("ray"),
        "host": platform.node(),
        "cpus": str(os.cpu_count()),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
    }
    return {key: value for key, value in found.items() if value}


def _output(program: str, *words: str) -> str | None:
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return "; ".join(done.stdout.splitlines())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def connect(where: str) -> Any:
    """MLflow's client of this store. Raises InputError where mlflow is not installed."""
    # a server that is away costs seconds, not the minutes of mlflow's defaults; no telemetry, nothing printed
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise InputError("mlflow is not installed here; install the project's dependencies with pip") from None
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(mlflow|sqlalchemy)\b")
    return MlflowClient(where)


def _experiment(client: Any, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _begin(handle: RunHandle, name: str, tags: Mapping[str, str]) -> RunHandle:
    known = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL", "process": _process()}
    if handle.parent is not None:
        known["mlflow.parentRunId"] = handle.parent
    if "commit" in tags:
        known["mlflow.source.git.commit"] = tags["commit"]
    words = {key: str(value)[:LONGEST_TAG] for key, value in tags.items()}
    created = connect(handle.uri).create_run(handle.experiment, tags=known | words, run_name=name)
    return replace(handle, run=created.info.run_id)


@contextmanager
def _ended(begun: Run, parameters: Mapping[str, Any]) -> Iterator[Run]:
    status = "FAILED"
    try:
        begun._parameters(parameters)
        yield begun
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        begun.close(status)


def _process() -> str:
    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def _end_abandoned(client: Any, experiment: str) -> None:
    """A process that was killed could not end its runs: whoever comes next on that machine does."""
    for left in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        host, _, rest = left.data.tags.get("process", "").partition(" ")
        if host == platform.node() and not _alive(*rest.split()):
            _end_children(client, experiment, left.info.run_id)
            client.set_terminated(left.info.run_id, "KILLED")


def _alive(number: str, born: str) -> bool:
    try:
        return abs(psutil.Process(int(number)).create_time() - float(born)) < 2  # numbers are used again
    except psutil.Error:
        return False


def _end_children(client: Any, experiment: str, parent: str) -> None:
    """Trials that a scheduler stopped never come to their own end."""
    own = f"attributes.status = 'RUNNING' and tags.mlflow.parentRunId = '{parent}'"
    for left in client.search_runs([experiment], own):
        client.set_terminated(left.info.run_id, "KILLED")


@contextmanager
def _usable(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        advice = "start the server or correct MLFLOW_TRACKING_URI" if _served(where) else "correct MLFLOW_TRACKING_URI"
        raise InputError(f"MLflow cannot use the store {_shown(where)} ({_brief(error)}); {advice}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
        yield


def _served(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def _shown(text: str) -> str:
    """A text without the passwords that its addresses may hold."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def _brief(error: Exception) -> str:
    return _shown(" ".join(str(error).split()))[:200] or type(error).__name__
