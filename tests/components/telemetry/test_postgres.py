"""A server of deploy/mlflow_server.sh: trials that log at once lose nothing when it is killed and started again."""

import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from components.telemetry import tracking
from tests.pipeline.conftest import free_port

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy" / "mlflow_server.sh"
TRIALS, STEPS = 8, 40
TRIAL = """
import pickle, sys, time
from pathlib import Path
folder, number = Path(sys.argv[1]), int(sys.argv[2])
handle = pickle.loads((folder / "handle").read_bytes())
with handle.child(f"trial-{number}", {"lr": number}) as run:
    for step in range(STEPS // 2):
        run.metrics({"loss": number + step}, step=step)
    assert run.flush()
    (folder / f"begun-{number}").touch()
    while not (folder / "down").exists():
        time.sleep(0.05)
    for step in range(STEPS // 2, STEPS):
        run.metrics({"loss": number + step}, step=step)
    while not (folder / "up").exists():
        time.sleep(0.05)
    assert run.artifact(folder / "handle")
"""

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not (shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb")), reason="no PostgreSQL"
    ),
]


def wait_for(happened: Callable[[], object], what: Callable[[], str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


class Server:
    """The script in a folder; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.log = folder, free_port(), folder / "log.txt"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            words = (SCRIPT, self.folder / "server", str(self.port), "--workers", "1")
            self.process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self.answers() or self.process.poll() is not None, self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()

    def answers(self) -> bool:
        with suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200
        return False

    def below(self, name: str) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.process.pid).children(recursive=True) if name in one.cmdline()[1]]

    def stop(self, how: int) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=60)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # not tmp_path, which PostgreSQL's own user may not enter when the tests run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    server = Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    yield server
    server.stop(signal.SIGTERM)
    shutil.rmtree(folder)


def test_trials_that_log_at_once_lose_nothing_when_the_server_is_killed_and_started_again(server, tmp_path):
    import pickle

    with tracking.run("sweep", root=tmp_path, tags={}, parameters={}) as run:
        (tmp_path / "handle").write_bytes(pickle.dumps(run.handle))
        code = f"STEPS = {STEPS}\n{TRIAL}"
        trials = [
            subprocess.Popen(
                [sys.executable, "-c", code, tmp_path, str(number)], cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            for number in range(TRIALS)
        ]
        wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == TRIALS, server.log.read_text)
        for one in psutil.Process(server.process.pid).children(recursive=True):
            if "mlflow" in " ".join(one.cmdline()) and "postgres" not in one.name():
                one.kill()
        server.process.wait(timeout=60)
        (tmp_path / "down").touch()
        server.start()
        (tmp_path / "up").touch()
        said = [trial.communicate(timeout=240)[1] for trial in trials]
    assert [trial.returncode for trial in trials] == [0] * TRIALS, said
    assert "database is locked" not in "".join(said) + server.log.read_text()
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found = client.search_runs([run.handle.experiment], f"tags.`mlflow.parentRunId` = '{run.id}'")
    assert len(found) == TRIALS
    for one in found:
        number = int(one.data.params["lr"])
        losses = {point.step: point.value for point in client.get_metric_history(one.info.run_id, "loss")}
        assert losses == {step: number + step for step in range(STEPS)}
        assert one.info.status == "FINISHED"
        assert [file.path for file in client.list_artifacts(one.info.run_id)] == ["handle"]


def test_without_a_folder_or_without_postgres_it_says_what_is_missing(tmp_path):
    told = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert (told.returncode, told.stderr.startswith("error: no folder for the database")) == (2, True)
