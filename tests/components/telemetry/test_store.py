"""The SQLite file of runs: damaged, locked, older or newer than the installed MLflow."""

import logging
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from components.foundation.errors import InputError
from components.telemetry import store, tracking
from tests.pipeline.conftest import CANVASMAR, ROOT, environment

NEWER = "ffffffffffff"


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the project's experiment and no runs."""
    folder = tmp_path_factory.mktemp("empty")
    store.prepare(f"sqlite:///{folder}/mlruns/mlflow.db", folder)
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def database(empty: Path, tmp_path: Path) -> Path:
    """The database of a project in tmp_path."""
    (tmp_path / "mlruns").mkdir()
    return Path(shutil.copy(empty, tmp_path / "mlruns"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file: Path) -> None:
    file.write_bytes(b"this is no database" * 100)


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def set_schema(file: Path, schema: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (schema,))


def make_newer(file: Path) -> None:
    set_schema(file, NEWER)


def make_older(file: Path) -> None:
    versions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    with closing(sqlite3.connect(file)) as connection:
        ((schema,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    (newest,) = versions.glob(f"{schema}_*.py")
    (line,) = [line for line in newest.read_text().splitlines() if line.startswith("down_revision")]
    set_schema(file, line.split("=")[1].strip().strip("\"'"))


@pytest.mark.parametrize(
    ("spoil", "wrong", "remedy"),
    [
        (cut, "(database disk image is malformed)", "move the file away to begin an empty one"),
        (overwrite, "(file is not a database)", "move the file away to begin an empty one"),
        (make_folder, "(unable to open database file)", "grant write access"),
        (make_newer, f"written by a newer version of MLflow (schema {NEWER})", "install that version"),
        (make_older, "written by an older version of MLflow", "run `mlflow db upgrade sqlite:///{file}`"),
    ],
)
def test_an_unusable_database_is_one_sentence_that_says_what_to_do(
    database: Path, spoil: Callable[[Path], None], wrong: str, remedy: str
) -> None:
    spoil(database)
    with pytest.raises(InputError) as caught:
        store.prepare(f"sqlite:///{database}", database.parents[1])
    sentence = str(caught.value)
    assert sentence.startswith(f"MLflow's database {database} ")
    assert wrong in sentence
    assert remedy.format(file=database) in sentence
    assert "MLFLOW_TRACKING_URI" not in sentence


def test_a_locked_database_is_one_sentence_and_only_a_warning_once_a_run_has_begun(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    locked = f"MLflow's database {database} cannot be used (database is locked); end the program that holds it"
    with (
        tracking.run("train", root=database.parents[1], tags={}, parameters={}) as run,
        closing(sqlite3.connect(database, isolation_level=None)) as other,
        caplog.at_level(logging.WARNING, logger="components.telemetry.tracking"),
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError) as caught:
            store.prepare(f"sqlite:///{database}", database.parents[1])
        run.tags({"part": "trial"})
        other.execute("ROLLBACK")
    assert str(caught.value).startswith(locked)
    assert [f"cannot log tags of run {run.id}: {locked}" in record.getMessage() for record in caplog.records] == [True]
    assert "Traceback" not in capfd.readouterr().err


def test_the_ui_of_a_damaged_database_ends_with_a_sentence(database: Path) -> None:
    overwrite(database)
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    project = database.parents[1]
    done = subprocess.run((*CANVASMAR, "ui"), cwd=project, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: MLflow's database {database} cannot be used (file is not a database); ")
