"""Watchdog of a command: a small process that ends the command if its DVC or make is killed, and cleans up after it.

DVC and make start a command through a shell, and a killed process cannot end its children. The watchdog therefore runs
in its own session. When DVC or make is gone, it sends SIGTERM to the command and, after a grace period, SIGKILL. When
the command has ended, the watchdog ends the remaining processes in the same way:

- descendants of the command, from polls at regular intervals; this misses processes that start between two polls;
- processes with the command's mark, an inherited environment variable; this misses Ray's workers and agents, which
  overwrite their environment with their title.

A Ray cluster that the user started is neither a descendant nor marked.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "CANVASMAR_COMMAND"  # environment variable that all descendants of a command inherit
POLL_SECONDS = 0.5
DESCENDANTS_SECONDS = 2.0  # between polls of the descendants, which read a file of every process of the machine
GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL of the command, for a checkpoint
REMAINING_SECONDS = 1.0  # between SIGTERM and SIGKILL of the remaining processes
SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish", "ash", "busybox"}
MAKES = {"make", "gmake"}


def start() -> subprocess.Popen[bytes]:
    """Start the watchdog of this process. SIGTERM sent to the watchdog ends only the watchdog."""
    variables = {name: value for name, value in os.environ.items() if name != MARK}  # not a process of another command
    os.environ[MARK] = secrets.token_hex(16)
    # runs the file, because the package may not be on the path; -P does not add its folder to the path
    command = (sys.executable, "-P", __file__, str(os.getpid()), os.environ[MARK])
    null = subprocess.DEVNULL  # an inherited pipe would stay open while the watchdog runs
    return subprocess.Popen(command, env=variables, stdin=null, stdout=null, stderr=null, start_new_session=True)


def watch(pid: int, mark: str) -> None:
    """Wait until the command with this process id has ended, or end it; then end its remaining processes."""
    descendants: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        command = psutil.Process(pid)
        if os.getppid() == pid:  # otherwise the command has ended, and its id may belong to another process
            _watch(command, descendants)
    deadline = time.monotonic() + REMAINING_SECONDS
    while remaining := [process for process in descendants.union(marked(mark)) if not gone(process)]:
        for process in remaining:
            with suppress(psutil.Error):
                process.terminate() if time.monotonic() < deadline else process.kill()
        time.sleep(0.2)


def _watch(command: psutil.Process, descendants: set[psutil.Process]) -> None:
    """Return when the command has ended; update the set of its descendants."""
    watched = launchers(command)
    lost, next_update = orphaned(command, watched), 0.0
    while not (lost or gone(command)):
        if time.monotonic() >= next_update:
            update_descendants(command, descendants)
            next_update = time.monotonic() + DESCENDANTS_SECONDS
        time.sleep(POLL_SECONDS)
        lost = any(gone(process) for process in watched)
    if lost:
        time.sleep(POLL_SECONDS)  # a command that also got SIGTERM ends its watchdog in this time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        update_descendants(command, descendants)
        command.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while not gone(command) and time.monotonic() < deadline:
            time.sleep(0.1)
        command.kill()


def update_descendants(command: psutil.Process, descendants: set[psutil.Process]) -> None:
    """Add the descendants of the command to the set, except watchdogs, and remove those that have ended."""
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = command.children(recursive=True)
    for child in children:
        with suppress(psutil.Error):  # a child may end at any time
            if __file__ not in child.cmdline():
                descendants.add(child)
    descendants -= {process for process in descendants if gone(process)}


def launchers(command: psutil.Process) -> list[psutil.Process]:
    """Return the DVC and make ancestors of a command and the shells between them, nearest first.

    The list stops at the first ancestor that is another program, because a terminal or a script may end before the
    command. Shells after the last DVC or make are omitted.
    """
    launching, between = [], []
    with suppress(psutil.NoSuchProcess):
        for process in command.parents():
            between.append(process)
            if is_dvc(process) or is_make(process):
                launching += between
                between = []
            elif not is_command_shell(process):
                break
    return launching


def orphaned(command: psutil.Process, watched: list[psutil.Process]) -> bool:
    """Return whether the DVC or make that started the command ended before the watchdog started.

    DVC and make set an environment variable, and init adopts the processes that they leave behind. A make recipe may
    detach a command on purpose, with nohup or setsid; DVC always waits for its stages.
    """
    with suppress(psutil.NoSuchProcess):
        top = command
        while (parent := top.parent()) and (parent in watched or is_command_shell(parent)):
            top = parent
        adopted = parent is None or parent.pid == 1 or parent.name() == "systemd"
        detached = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN or os.getsid(command.pid) == top.pid
        without_dvc = "DVC_STAGE" in os.environ and not any(map(is_dvc, watched))
        without_make = "MAKELEVEL" in os.environ and not any(map(is_make, watched))
        return adopted and (without_dvc or (without_make and not detached))
    return True


def is_dvc(process: psutil.Process) -> bool:
    """Return whether the process is DVC, started as a program or as a Python module."""
    return any(Path(argument).name == "dvc" for argument in process.cmdline()[:4])


def is_make(process: psutil.Process) -> bool:
    """Return whether the process is make."""
    return process.name() in MAKES


def is_command_shell(process: psutil.Process) -> bool:
    """Return whether the process is a shell with the option -c, which runs one command line."""
    arguments = process.cmdline()[1:]
    options = [argument for argument in arguments if argument.startswith("-") and not argument.startswith("--")]
    return process.name() in SHELLS and any(option.endswith("c") for option in options)


def gone(process: psutil.Process) -> bool:
    """Return whether the process has ended; zombies have ended too."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield this user's running processes whose environment variable MARK has the value `mark`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and not gone(process):
                yield process


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
