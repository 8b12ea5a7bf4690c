"""A store of runs whose tables are made once, because that takes seconds."""

import shutil
from pathlib import Path

import pytest

from components.telemetry import tracking


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    tracking.prepare(f"sqlite:///{folder}/mlruns/mlflow.db", folder)
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A project whose store of runs has its tables and no run."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(prepared, tmp_path / "mlruns")
    return tmp_path
