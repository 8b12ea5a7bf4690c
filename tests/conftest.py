"""Fixtures of all tests. While tests run, beartype checks every jaxtyping annotation in components/."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("components", "beartype.beartype")
# by default, Ray gives its workers the lowest priority, and they hardly run next to other tests
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112


BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--within", type=float, metavar="MINUTES", help="skip the tests that have not started by then")


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--within")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"not started within {minutes:g} minutes")


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the names that an import of the Ray modules or a shell sets: runs of a test belong to the test's folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "none", disk), capture_output=True).returncode
    ):
        pytest.skip("this machine does not let us mount a small tmpfs")
    yield disk
    subprocess.run(("umount", disk), check=True)
