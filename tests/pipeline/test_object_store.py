"""A project whose DVC remote and MLflow artifacts are in an object store: a server on this machine that speaks S3."""

import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem

from tests.conftest import set_free_requests
from tests.pipeline import conftest
from tests.pipeline.conftest import free_port

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(importlib.util.find_spec("dvc_s3") is None, reason="object stores need the extra s3"),
]

NAMES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "MLFLOW_TRACKING_URI")


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would whose shell knows the object store and the MLflow server."""
    return conftest.run(
        folder, "env", *(f"{name}={os.environ[name]}" for name in NAMES if name in os.environ), *command, check=check
    )


def stored(prefix: str) -> list[str]:
    """Paths in the bucket."""
    filesystem, folder = FileSystem.from_uri(f"s3://bucket/{prefix}")
    return [info.path for info in filesystem.get_file_info(FileSelector(folder, recursive=True))]


@pytest.fixture
def runs(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An MLflow server whose artifacts are in the bucket."""
    port = free_port()
    place = ("--backend-store-uri", f"sqlite:///{tmp_path}/runs.db", "--artifacts-destination", "s3://bucket/mlflow")
    words = (sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *place)
    shell = dict(os.environ) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.txt").open("wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env=shell)
    deadline = time.monotonic() + 120
    while True:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        assert time.monotonic() < deadline, (tmp_path / "server.txt").read_text()
        time.sleep(0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    yield
    server.terminate()
    server.wait()


def test_what_is_pushed_is_pulled_into_a_fresh_clone_where_nothing_runs_again(project, runs, tmp_path):
    run(project, "dvc", "remote", "add", "--default", "store", "s3://bucket/project")
    run(project, "dvc", "repro", "preprocess@kuka")
    assert any("/rejected/" in name for name in stored("mlflow"))
    run(project, "dvc", "push", "preprocess@kuka", "simulate@kuka")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "a run")

    run(tmp_path, "git", "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    run(clone, "dvc", "pull", "preprocess@kuka", "simulate@kuka")
    manifest = Path("data", "clips", "kuka", "manifest.json")
    assert (clone / manifest).read_bytes() == (project / manifest).read_bytes()
    done = run(clone, "dvc", "repro", "preprocess@kuka").stdout
    assert "Running stage" not in done
    assert "up to date" in done


def test_a_key_that_the_store_refuses_ends_a_pull_and_leaves_the_project_as_it_was(project, s3):
    run(project, "dvc", "remote", "add", "--default", "store", "s3://bucket/project")
    run(project, "dvc", "repro", "simulate@kuka")
    set_free_requests(s3, "0")
    refused = run(project, "dvc", "push", "simulate@kuka", check=False)
    assert refused.returncode != 0
    assert "Running stage" not in run(project, "dvc", "repro", "simulate@kuka").stdout
