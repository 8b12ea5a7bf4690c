"""The watchdog watches DVC, make and the shells between them, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.runtime import watchdog

ROOT = Path(__file__).parents[3]
SHELL = shutil.which("dash") or "/bin/sh"
# a command that starts a process in another session, as Ray does, and closes in order when it is interrupted
COMMAND = """
import os, subprocess, sys, time
from pathlib import Path
from pipeline.runtime import stage

with stage.command():
    child = subprocess.Popen((sys.executable, "-c", "import time; time.sleep(600)"), start_new_session=True)
    Path("started.aside").write_text(f"{os.getpid()} {child.pid}")
    Path("started.aside").rename("started")
    try:
        while True:
            time.sleep(600)
    finally:
        Path("closed").touch()
"""
# what DVC does: a shell runs the command, and DVC waits for the shell
DVC = f"""#!{sys.executable}
import os, subprocess
subprocess.call(({SHELL!r}, "-c", f"{sys.executable} command.py; exit $?"), env=os.environ | {{"DVC_STAGE": "train"}})
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A folder with a command, a program `dvc` that runs the command, and a Makefile that runs `dvc`."""
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "dvc").write_text(DVC)
    (tmp_path / "dvc").chmod(0o755)
    (tmp_path / "Makefile").write_text("repro:\n\t./dvc repro\n")
    yield tmp_path
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(tmp_path):
                process.kill()


def start(here: Path, *words: str, **more: str) -> subprocess.Popen[bytes]:
    shell = {"PATH": os.environ["PATH"], "HOME": str(here), "PYTHONPATH": str(ROOT), **more}
    return subprocess.Popen(words, cwd=here, env=shell, start_new_session=True)


def wait_for(happened: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.05)


def started(here: Path) -> tuple[psutil.Process, psutil.Process]:
    """The command and the process that it has started, once both run."""
    wait_for((here / "started").exists, "the start of the command")
    command, child = (psutil.Process(int(number)) for number in (here / "started").read_text().split())
    return command, child


def watchdog_of(command: psutil.Process) -> psutil.Process:
    return next(child for child in command.children() if "watchdog.py" in " ".join(child.cmdline()))


def ended(*processes: psutil.Process) -> Callable[[], bool]:
    return lambda: all(map(watchdog.gone, processes))


@pytest.mark.parametrize("victim", ["dvc", "make", "shell"])
def test_a_command_closes_in_order_and_leaves_nothing_when_what_started_it_is_killed(here: Path, victim: str) -> None:
    make = start(here, "make", "repro")
    command, child = started(here)
    above = {"dvc": command.parents()[1], "make": psutil.Process(make.pid), "shell": command.parents()[0]}
    assert watchdog.launchers(command) == [above["shell"], above["dvc"], above["make"]]
    above[victim].kill()
    wait_for(ended(command, child, *above.values()), "the end of everything", 10)
    assert (here / "closed").exists()
    make.wait()


def test_what_a_killed_command_started_is_ended(here: Path) -> None:
    start(here, "./dvc", "repro")
    command, child = started(here)
    command.kill()
    wait_for(ended(command, child), "the end of both", 10)
    assert not (here / "closed").exists()


def test_a_command_that_does_not_end_in_order_is_killed(here: Path) -> None:
    text = COMMAND.replace("    try:", "    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    try:")
    (here / "command.py").write_text(text)
    dvc = start(here, "./dvc", "repro")
    command, child = started(here)
    dvc.kill()
    wait_for(ended(command, child), "the end of both", 10)
    assert not (here / "closed").exists()


def test_a_command_that_is_told_to_stop_together_with_dvc_takes_its_time(here: Path) -> None:
    (here / "command.py").write_text(
        COMMAND.replace("    finally:", "    finally:\n        while not Path('go').exists(): time.sleep(0.05)")
    )
    dvc = start(here, "./dvc", "repro")
    command, child = started(here)
    dog = watchdog_of(command)
    os.killpg(dvc.pid, signal.SIGTERM)
    wait_for(ended(psutil.Process(dvc.pid), dog), "the end of DVC and of the watchdog")
    assert not watchdog.gone(command)
    (here / "go").touch()
    wait_for((here / "closed").exists, "the end of the command")
    child.kill()


@pytest.mark.parametrize("variable", ["DVC_STAGE", "MAKELEVEL"])
def test_a_command_whose_dvc_or_make_is_gone_before_it_has_begun_ends(here: Path, variable: str) -> None:
    start(here, SHELL, "-c", f"{SHELL} -c '{sys.executable} command.py; exit' & exit", **{variable: "1"}).wait()
    wait_for((here / "closed").exists, "the end of the command")


DETACHED = {
    "nohup": f"nohup {sys.executable} command.py & exit",
    "setsid": f"setsid {sys.executable} command.py & exit",
    "a script": f"{SHELL} script & exit",
}


@pytest.mark.parametrize("how", DETACHED)
def test_a_command_that_was_detached_is_not_watched(here: Path, how: str) -> None:
    (here / "script").write_text(f"{sys.executable} command.py; exit")
    more = {} if how == "a script" else {"MAKELEVEL": "1"}  # a recipe of make may detach a command as well
    start(here, SHELL, "-c", DETACHED[how], **more).wait()
    command, child = started(here)
    assert watchdog.launchers(command) == []
    dog = watchdog_of(command)
    before = dog.num_ctx_switches().voluntary
    wait_for(lambda: dog.num_ctx_switches().voluntary > before + 3, "some looks of the watchdog")
    assert command.is_running()
    assert not (here / "closed").exists()
    command.kill()
    wait_for(ended(command, child, dog), "the end", 10)


def test_a_terminal_between_make_and_a_command_is_not_watched(here: Path) -> None:
    (here / "Makefile").write_text(f"repro:\n\tcat commands | {SHELL} -i\n")
    (here / "commands").write_text("./dvc repro\n")
    start(here, "make", "repro")
    command, _ = started(here)
    assert watchdog.launchers(command) == command.parents()[:2]
