"""`make repro` of which a process is killed with SIGKILL leaves nothing running, and the next one resumes."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.pipeline.conftest import ROOT, build, environment, run, set_value
from tests.pipeline.untrained import write_latents

pytestmark = pytest.mark.faults
WITHIN = 10.0  # seconds from the kill until nothing of the run is left


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one stage, a training; all tests of this file work in it, and each resumes the one before."""
    folder = build(tmp_path_factory.mktemp("kills") / "project")
    write_latents(folder / "data" / "latents" / "kuka-vae", folder / "data" / "autoencoders" / "kuka-vae", frames=9)
    content = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    train = content["stages"]["train"]["do"]
    row = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["experiments"]["kuka-canvasmar"]
    content["stages"] = {"train": {"foreach": {"kuka-canvasmar": row}, "do": train}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for key, value in {"steps": 400, "checkpoint_every": 5, "log_every": 5, "validate_every": 400}.items():
        set_value(folder, f"recipes.model.{key}", value)
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".ready").touch()  # the tests' own environment is used
    return folder


@pytest.fixture
def making(project: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`make repro` and its log, with a shell that stays between DVC and the stage."""
    log = project.parent / "log.txt"
    shell = environment() | {"SHELL": shutil.which("dash") or "/bin/sh"}
    with log.open("wb") as file:
        made = subprocess.Popen(
            ("make", "repro"), cwd=project, env=shell, stdout=file, stderr=file, start_new_session=True
        )
    yield made, log
    for one in processes_of(project):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    made.wait()


def wait_for(happened: Callable[[], Any], what: Callable[[], str], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
    return found


def processes_of(project: Path) -> list[psutil.Process]:
    """Running processes whose command line, folder or environment names the project."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            facts = (*one.cmdline(), one.cwd(), *one.environ().values())
            if one.status() != psutil.STATUS_ZOMBIE and any(str(project) in fact for fact in facts):
                found.append(one)
    return found


def find(project: Path, words: str) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [one for one in processes_of(project) if words in " ".join(one.cmdline())]
    return []


def newest(project: Path) -> int:
    """The step of the newest checkpoint."""
    found = (project / ".state" / "cache" / "training").glob("*/checkpoint_[0-9]*")
    return max((int(path.name.removeprefix("checkpoint_")) for path in found), default=0)


def wait_for_a_checkpoint_more(project: Path, made: subprocess.Popen[bytes], log: Path) -> None:
    before = newest(project)
    wait_for(lambda: newest(project) > before or made.poll() is not None, log.read_text)
    assert made.poll() is None, log.read_text()
    assert (f"resuming from the checkpoint at step {before}" in log.read_text()) == (before > 0)


@pytest.mark.parametrize("victim", ["bin/dvc repro", "make repro", "python -m pipeline.train"])
def test_nothing_is_left_ten_seconds_after_a_kill(project, making, victim):
    made, log = making
    wait_for_a_checkpoint_more(project, made, log)
    assert find(project, "raylet")
    # DVC's shell has the stage's words in its command line as well: the stage is below it
    killed = max(find(project, victim), key=lambda one: len(one.parents()) if "-c" not in one.cmdline() else 0)
    killed.send_signal(signal.SIGKILL)
    if victim == "make repro":
        made.wait()

    def left() -> list[psutil.Process]:
        made.poll()
        return processes_of(project)

    wait_for(lambda: not left(), lambda: f"{left()} still run\n{log.read_text()}", WITHIN)


def test_a_killed_worker_is_replaced_and_the_finished_run_leaves_nothing(project, making):
    made, log = making
    wait_for_a_checkpoint_more(project, made, log)
    find(project, "RayTrainWorker")[0].send_signal(signal.SIGKILL)
    assert made.wait(timeout=600) == 0, log.read_text()
    assert "up to date" in run(project, "dvc", "status").stdout
    wait_for(lambda: not processes_of(project), lambda: f"{processes_of(project)} still run", WITHIN)
