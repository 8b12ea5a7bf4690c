"""Shapes are checked while the tests run: every jaxtyping annotation in components/ is enforced by beartype."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("components", "beartype.beartype")
# with Ray's own choice, the lowest priority, workers hardly run beside the other tests
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112


BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--within", type=float, metavar="MINUTES", help="skip the tests that have not begun by then")


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--within")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"not begun within {minutes:g} minutes")


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray's door names a tracking store for the whole process; a test's runs belong to its own folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four mebibytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "none", disk), capture_output=True).returncode
    ):
        pytest.skip("this machine does not let us mount a small tmpfs")
    yield disk
    subprocess.run(("umount", disk), check=True)
