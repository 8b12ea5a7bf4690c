"""MLflow runs: parameters, metrics, artifacts and provenance.

Only this module, `store`, `trees`, `views` and `registry` use mlflow, which is imported when a run is first opened.
Once a run has begun, a failing tracking store never stops the caller: metrics stay buffered, and every other failure is
logged as a warning.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from components.foundation.parallel import cpu_count
from components.telemetry import mlflow_names, trees
from components.telemetry.store import (
    brief,
    connect,
    end_children,
    prepare,
    problem,
    process,
    served,
    shown,
    uri,
    usable,
    user,
)

FLUSH_SECONDS: Final = 5.0
SYSTEM_SECONDS: Final = 10.0
LONGEST_PARAMETER: Final = 6000  # characters, MLflow's limit
LONGEST_TAG: Final = 5000
LONGEST_DIGEST: Final = 36
LARGEST_BATCH: Final = 1000  # metrics per call; of parameters, a tenth as many

_log = logging.getLogger(__name__)
WRITTEN = ("dvc.lock", "metrics")  # by every run, so that changes of these are no edits


@runtime_checkable
class Figure(Protocol):
    """An object that can draw itself into a file, such as a matplotlib figure."""

    def savefig(self, fname: Path, **options: Any) -> object:
        """Draw the figure into the file `fname`."""
        ...


@contextmanager
def run(
    name: str,
    *,
    root: Path,
    tags: Mapping[str, str],
    parameters: Mapping[str, Any],
    row: Mapping[str, Any] | None = None,
) -> Iterator["Run"]:
    """Open a run for the block. It ends as FINISHED, as FAILED after an exception, or as KILLED when interrupted.

    `parameters` are flat (`config.flatten`). `row` holds the parameters of the row that this stage belongs to; with it,
    the run is a child of the row's run (`trees`), which shows the newest scores of its stages. MLflow's system metrics
    (CPU, memory, GPU) are logged as well. Raises InputError if the store cannot be used.
    """
    where = uri(root)
    experiment = prepare(where, root)
    with usable(where):
        found = None if row is None else trees.place(connect(where), experiment, tags)
        handle = _begin(RunHandle(where, experiment, "", found.parent if found else None), name, tags)
    opened = Run(handle, watch=True, row=tags.get("row", ""), in_row=found is not None)
    if found is not None and found.new:
        with RunHandle(where, experiment, found.parent, None).open() as parent:
            parent.parameters(row or {})
    if found is not None and found.model is not None:
        opened.read_model(found.model)
    with _ended(opened, parameters) as begun:
        yield begun


@dataclass(frozen=True, slots=True)
class RunHandle:
    """The address of a run, which can be sent to other processes and machines."""

    uri: str
    experiment: str
    run: str
    parent: str | None

    def open(self) -> "Run":
        """Open the run in this process. Use the result in a `with` block, or close it; the run's status stays."""
        return Run(self, watch=False)

    def watch(self, node: str | None = None) -> Any:
        """Log this machine's CPU, memory, disk, network and GPUs every few seconds, until the result's `finish`.

        If `node` is given, the metrics are separate series: system/NODE/cpu_utilization_percentage and so on.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run, SYSTEM_SECONDS, node_id=node, tracking_uri=self.uri)
        monitor.start()
        return monitor

    @contextmanager
    def child(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> Iterator["Run"]:
        """Open a child run for the block. The block also runs, without logging, if the store is unreachable."""
        handle = RunHandle(self.uri, self.experiment, "", self.run)
        try:
            handle = _begin(handle, name, tags or {})
        except Exception as error:
            reason = problem(self.uri, error) or f"{shown(self.uri)}: {brief(error)}"
            _log.warning("cannot create the run %s: %s", name, reason)
        with _ended(Run(handle, watch=False), parameters) as begun:
            yield begun


class Run:
    """An open run. A thread sends buffered metrics every few seconds; everything else is sent at once."""

    def __init__(self, handle: RunHandle, *, watch: bool, row: str = "", in_row: bool = False) -> None:
        self.handle, self.row = handle, row  # the entry of params.yaml whose stage this is
        self.settings: dict[str, str] = {}  # parameters logged so far
        self._client = connect(handle.uri)
        self._pending: list[tuple[Any, ...]] = []  # arguments of mlflow.entities.Metric
        self._row_run = handle.parent if in_row else None
        self._scores: dict[str, float] = {}
        self._datasets: dict[str, tuple[str, str]] = {}  # name and hash by context
        self._model: tuple[str, str, str] | None = None  # id, and the data set of its scores
        self._lock, self._sending, self._over = threading.Lock(), threading.Lock(), threading.Event()
        self._warned: set[str] = set()
        self._renamed: set[str] = set()
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
        """URL of the run's page on the tracking server, or on the MLflow UI that `make ui` starts for a local store."""
        server = shown(self.handle.uri) if served(self.handle.uri) else "http://127.0.0.1:5000"
        return f"{server}/#/experiments/{self.handle.experiment}/runs/{self.id}"

    def metrics(self, values: Mapping[str, float | int], step: int | None = None) -> None:
        """Buffer metrics of a step, or of the whole run if `step` is None."""
        self._add(values, step, ())

    def scores(self, values: Mapping[str, float | int]) -> None:
        """Buffer the results of the run. They hang on its logged model with the data set, and on the row's run."""
        _, name, digest = self._model or ("", "", "")
        self._add(values, None, () if self._model is None else (self._model[0], name or None, digest or None, self.id))
        self._scores |= self._named({key: float(value) for key, value in values.items()})

    def _add(self, values: Mapping[str, float | int], step: int | None, of_model: tuple[str | None, ...]) -> None:
        now = int(time.time() * 1000)
        rows = [(key, float(value), now, step or 0, *of_model) for key, value in self._named(values).items()]
        with self._lock:
            self._pending += rows

    def artifact(self, path: Path, folder: str = "") -> bool:
        """Copy a file or folder into the run's artifacts, below `folder` if given. Return False if that failed."""
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        return self._attempt("artifacts", lambda: send(self.id, str(path), folder or None))

    def image(self, picture: UInt8[np.ndarray, "h w 3"], key: str, step: int) -> bool:
        """Log an image of a step; the UI has a slider over the steps. Return False if logging failed."""
        return self._attempt("images", lambda: self._client.log_image(self.id, picture, key=key, step=step))

    def figure(self, figure: Figure, path: str) -> None:
        """Save a matplotlib figure as the artifact `path`, such as `figures/loss.png`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            figure.savefig(file)
            self.artifact(file, Path(path).parent.as_posix().removeprefix("."))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run, which the UI can search."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, _text(value)[:LONGEST_TAG]) for key, value in self._named(values).items()]
        self._attempt("tags", lambda: self._client.log_batch(self.id, tags=entries))

    def dataset(self, name: str, source: str, digest: str, context: str) -> None:
        """Log a dataset that the run read: its location, its hash and its use (`context`), such as `training`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self._datasets[context] = (name, digest[:LONGEST_DIGEST])
        data = Dataset(name, digest[:LONGEST_DIGEST], "local", json.dumps({"uri": source}))
        read = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._attempt("datasets", lambda: self._client.log_inputs(self.id, datasets=[read]))

    def read_model(self, model: str) -> None:
        """Link a logged model that another run wrote as an input of this run."""
        from mlflow.entities import LoggedModelInput

        self._attempt("the model", lambda: self._client.log_inputs(self.id, models=[LoggedModelInput(model)]))

    def wrote_model(self, model: str, context: str) -> None:
        """Link a logged model as an output; the run's scores hang on it, with the data set of this context."""
        from mlflow.entities import LoggedModelOutput

        self._model = (model, *self._datasets.get(context, ("", "")))
        self._attempt("the model", lambda: self._client.log_outputs(self.id, [LoggedModelOutput(model, 0)]))

    def flush(self) -> bool:
        """Send the buffered metrics. Return False if some stay buffered because the store is unreachable."""
        from mlflow.entities import Metric

        with self._sending:  # one sender at a time, or the thread and the caller would send rows twice
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
        """Send the remaining metrics. A status (FINISHED, FAILED, KILLED) also ends the run and kills open children."""
        self._over.set()
        self._sender.join()
        if not self.flush():
            _log.warning("lost %d metrics of run %s: cannot reach the tracking store", len(self._pending), self.id)
        if self._monitor is not None:
            self._monitor.finish()
        if status is not None and self._row_run is not None:
            self._attempt("the row's run", partial(self._update_row, self._row_run, status))
        if status is not None:
            self._attempt("status of children", lambda: end_children(self._client, self.handle.experiment, self.id))
            self._attempt("final status", lambda: self._client.set_terminated(self.id, status))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _update_row(self, row: str, status: str) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(row, metrics=[Metric(key, value, now, 0) for key, value in self._scores.items()])
        self._client.set_terminated(row, status)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log flat parameters; a value that MLflow holds already cannot be changed."""
        from mlflow.entities import Param

        texts = {key: _text(value) for key, value in values.items()}
        self.settings |= texts
        if any(len(text) > LONGEST_PARAMETER for text in texts.values()):
            self._attempt("parameters", lambda: self._client.log_dict(self.id, texts, "parameters.json"))
        entries = [Param(key, text[:LONGEST_PARAMETER]) for key, text in self._named(texts).items()]
        for start in range(0, len(entries), LARGEST_BATCH // 10):
            part = entries[start : start + LARGEST_BATCH // 10]
            self._attempt("parameters", partial(self._client.log_batch, self.id, params=part))

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values under names that MLflow accepts, and warn once about each name that had to change."""
        names = {key: mlflow_names.accepted(key) for key in values}
        changed = [key for key, name in names.items() if name != key and key not in self._renamed]
        if changed:
            listed = ", ".join(f"{key!r} as {names[key]}" for key in changed)
            _log.warning("MLflow does not accept every name; run %s has %s", self.id, listed)
            self._renamed.update(changed)
        return {names[key]: value for key, value in values.items()}

    def _watch(self) -> None:
        self._monitor = self.handle.watch()

    def _send_now_and_then(self) -> None:
        while not self._over.wait(FLUSH_SECONDS):
            self.flush()

    def _attempt(self, what: str, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:  # a failing store must not stop the caller
            if what not in self._warned:
                reason = problem(self.handle.uri, error) or f"{shown(self.handle.uri)}: {brief(error)}"
                _log.warning("cannot log %s of run %s: %s", what, self.id, reason)
            self._warned.add(what)
            return False
        self._warned.discard(what)
        return True


def provenance(root: Path) -> dict[str, str]:
    """Return the provenance of a run as tags: commit, stage, versions and machine. Unknown values are omitted.

    `dirty` says whether files other than those that a run writes have changes that are not committed.
    """
    git, lock = ("git", "-C", str(root)), root / "dvc.lock"
    changes = _output(*git, "status", "--porcelain", "--", ".", *(f":(exclude){name}" for name in WRITTEN))
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
        "cpus": str(cpu_count()),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
    }
    return {key: value for key, value in found.items() if value}


def _text(value: object) -> str:
    """Return the value as text that every store can hold: names of files that are not UTF-8 are escaped."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode(errors="backslashreplace").decode()


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


def _begin(handle: RunHandle, name: str, tags: Mapping[str, str]) -> RunHandle:
    known = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL", "process": process()}
    known["mlflow.user"] = user()
    if handle.parent is not None:
        known["mlflow.parentRunId"] = handle.parent
    if "commit" in tags:
        known["mlflow.source.git.commit"] = tags["commit"]
    given = {mlflow_names.accepted(key): _text(value)[:LONGEST_TAG] for key, value in tags.items()}
    created = connect(handle.uri).create_run(handle.experiment, tags=known | given, run_name=name)
    return replace(handle, run=created.info.run_id)


@contextmanager
def _ended(begun: Run, parameters: Mapping[str, Any]) -> Iterator[Run]:
    status = "FAILED"
    try:
        begun.parameters(parameters)
        yield begun
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        begun.close(status)
