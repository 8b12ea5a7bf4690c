"""The tracking store of MLflow: its address, the project's experiment in it, and errors of the store.

Besides `tracking` and `registry`, the only module that uses mlflow, which is imported when a store is first opened.
"""

import fcntl
import getpass
import logging
import os
import platform
import re
import shlex
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import psutil

from components.foundation import workspace
from components.foundation.errors import InputError

EXPERIMENT: Final = "canvasmar"  # unless MLFLOW_EXPERIMENT_NAME names another
ROW: Final = "row"  # value of the tag `part` of the parent run of a row
ARTIFACTS: Final = "artifacts"  # folder beside the file of a SQLite store
LOCATIONS: Final = (  # tables and columns of MLflow's database with locations of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
LOCK_SECONDS: Final = 10.0
SIGNS: Final = frozenset("?#%")  # have a meaning in a URI
_RESTORE: Final = "restore a backup, or move the file away to begin an empty one"
_PERMIT: Final = "grant write access to the file and its folder"
ADVICE: Final = {  # by what SQLite says
    "file is not a database": _RESTORE,
    "database disk image is malformed": _RESTORE,
    "database is locked": "end the program that holds it, and run the command again",
    "attempt to write a readonly database": _PERMIT,
    "unable to open database file": _PERMIT,
    "database or disk is full": "free some space",
}


def uri(root: Path) -> str:
    """Return the tracking URI: MLFLOW_TRACKING_URI, or the SQLite file in the project's mlruns folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri(root)


def experiment_name() -> str:
    """Return the name of the experiment of all runs: MLFLOW_EXPERIMENT_NAME, or `canvasmar`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def local_uri(root: Path) -> str:
    """Return the URI of the SQLite file in the project's mlruns folder."""
    path = str(workspace.runs(root) / "mlflow.db")
    # slashes are quoted too, because MLflow makes the folder that the text before the last slash would name unquoted
    return f"sqlite:///{quote(path, safe='') if SIGNS & set(path) else path}"


def database(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for other stores."""
    if not uri.startswith("sqlite:"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).resolve()


def prepare(uri: str, root: Path) -> str:
    """Return the id of the project's experiment, created if missing; safe to call from several processes at once.

    Artifacts are stored beside the file of a SQLite store, in the mlruns folder for other databases, or where a server
    decides. Runs of dead processes on this machine become KILLED. Raises InputError if the store cannot be used.
    """
    file = database(uri)
    folder = workspace.runs(root) if file is None else file.parent
    # two processes that create the tables at the same time fail
    lock = nullcontext() if served(uri) else _locked(folder / ".prepare.lock")
    with usable(uri), lock:
        check(uri)
        relocate(uri)
        client = connect(uri)
        experiment = _experiment(client, None if served(uri) else _artifacts(folder))
        _end_abandoned(client, experiment)
    return experiment


def connect(where: str) -> Any:
    """Return MLflow's client for the tracking URI `where`. Raises InputError if mlflow is not installed."""
    # an unreachable server costs seconds, not minutes as by mlflow's defaults; no telemetry, no printed URLs
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise InputError("mlflow is not installed; install the project's dependencies with pip") from None
    for noisy in ("alembic", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints tracebacks of what it then raises
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(mlflow|sqlalchemy)\b")
    warnings.filterwarnings("ignore", message=".*An input example was not provided")  # a signature is
    return MlflowClient(where)


def _experiment(client: Any, artifacts: str | None) -> str:
    name = experiment_name()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except Exception:  # on a server, another process may have created it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def process() -> str:
    """Return host, id and start time of this process, by which a later process sees whether it has ended."""
    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def user() -> str:
    """Return the user's name, or the number of a user without a name, such as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _end_abandoned(client: Any, experiment: str) -> None:
    """Mark runs of dead processes on this machine KILLED, since a killed process cannot end its own runs."""
    for left in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        host, _, rest = left.data.tags.get("process", "").partition(" ")
        if host == platform.node() and not _alive(*rest.split()):
            if left.data.tags.get("part") != ROW:  # its stages are processes of their own
                end_children(client, experiment, left.info.run_id)
            client.set_terminated(left.info.run_id, "KILLED")


def _alive(pid: str, created: str) -> bool:
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) < 2  # pids are reused
    except psutil.Error:
        return False


def end_children(client: Any, experiment: str, parent: str) -> None:
    """Mark running child runs KILLED: a trial that its scheduler stopped cannot end its own run."""
    own = f"attributes.status = 'RUNNING' and tags.mlflow.parentRunId = '{parent}'"
    for left in client.search_runs([experiment], own):
        client.set_terminated(left.info.run_id, "KILLED")


@contextmanager
def usable(where: str) -> Iterator[None]:
    """Turn every error of the tracking store `where` in the block into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        advice = "start the server or correct MLFLOW_TRACKING_URI" if served(where) else "correct MLFLOW_TRACKING_URI"
        unknown = f"MLflow cannot use the store {shown(where)} ({brief(error)}); {advice}"
        raise InputError(problem(where, error) or unknown) from None


def problem(where: str, error: Exception) -> str | None:
    """Return what is wrong with a SQLite file and what to do; None for other stores, and for other errors."""
    file, text = database(where), str(error)
    if file is None:
        return None
    for symptom, advice in ADVICE.items():
        if symptom in text:
            return f"MLflow's database {file} cannot be used ({symptom}); {advice}"
    if "out-of-date database schema" in text:
        return (
            f"MLflow's database {file} was written by an older version of MLflow; copy it as a backup, then run "
            f"`mlflow db upgrade {shlex.quote(where)}`"
        )
    return None


def check(where: str) -> None:
    """Raise InputError if the file of a SQLite store is damaged, locked, read-only or newer than this MLflow.

    MLflow itself would retry for minutes, and would change a newer database. A no-op for other stores.
    """
    file = database(where)
    if file is None or not file.exists():
        return
    with usable(where), closing(sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            for (schema,) in connection.execute("SELECT version_num FROM alembic_version"):
                _check_schema(file, schema)


def relocate(where: str) -> None:
    """Correct the artifact locations in a SQLite store that was moved or copied: the artifacts lie beside its file.

    MLflow stores absolute locations. Otherwise a moved project would write artifacts into its former folder, and a copy
    into the original. A no-op for other stores, and if the user has chosen another location for the artifacts.
    """
    file = database(where)
    if file is None or not file.exists():
        return
    with usable(where), closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as connection, connection:
        if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        chosen = "SELECT artifact_location FROM experiments WHERE name = ?"
        (former,) = connection.execute(chosen, (experiment_name(),)).fetchone() or ("",)
        now = _artifacts(file.parent)
        if former == now or _last_folders(former) != _last_folders(now):
            return
        old, new = (location.removesuffix(ARTIFACTS) for location in (former, now))
        for table, column in LOCATIONS:
            moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
            connection.execute(moved, (new, len(old) + 1, len(old), old))


def _artifacts(folder: Path) -> str:
    """Return the location of the artifacts beside the SQLite file in a folder, as MLflow stores it."""
    path = folder / ARTIFACTS
    return path.as_uri() if SIGNS & set(str(path)) else str(path)


def _last_folders(location: str) -> tuple[str, ...] | None:
    """Return the last two folders of a local location, such as mlruns and artifacts; None if it is not local."""
    if location.startswith("/"):
        return Path(location).parts[-2:]
    parts = urlsplit(location)
    return Path(unquote(parts.path)).parts[-2:] if parts.scheme == "file" else None


def _check_schema(file: Path, schema: str) -> None:
    """Raise InputError if this MLflow does not know the database's schema, because a newer one wrote it."""
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if not any(migrations.glob(f"{schema}_*.py")):
        raise InputError(
            f"MLflow's database {file} was written by a newer version of MLflow (schema {schema}) than the installed "
            f"{mlflow.__version__}; install that version, or move the file away to begin an empty one"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also after a crash
        yield


def served(where: str) -> bool:
    """Return whether the tracking URI is the address of a server."""
    return where.startswith(("http://", "https://"))


def shown(text: str) -> str:
    """Return the text without the passwords in its URLs."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def brief(error: Exception) -> str:
    """Return the error in one line of at most 200 characters, without passwords."""
    return shown(" ".join(str(error).split()))[:200] or type(error).__name__
