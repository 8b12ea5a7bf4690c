"""Fixtures of all tests. While tests run, beartype checks every jaxtyping annotation in components/."""

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

install_import_hook("components", "beartype.beartype")
# by default, Ray gives its workers the lowest priority, and they hardly run next to other tests
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# the same examples in every run; a busy machine may take long for one; no folder .hypothesis
hypothesis.settings.register_profile("project", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("project")

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


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator["ThreadedMotoServer"]:
    """A server of S3 on loopback with an empty bucket named `bucket`, whose address and key are in the environment."""
    from moto.server import ThreadedMotoServer  # both take a second to import
    from pyarrow.fs import FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "ENDPOINT_URL": f"http://{host}:{port}",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # the server's state is that of this process, and that of an earlier server is still there
    set_free_requests(server, "inf")
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    filesystem, bucket = FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
    filesystem.create_dir(bucket)
    yield server
    server.stop()


def set_free_requests(server: "ThreadedMotoServer", count: str) -> None:
    """Set after how many requests a server of S3 refuses those whose key it does not know, which are all keys."""
    host, port = server.get_host_and_port()
    data, header = count.encode(), {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset-auth", data, header)).close()
