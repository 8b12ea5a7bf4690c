import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import environment

ROOT = Path(__file__).parents[2]
SHOW = "import os, pathlib, json\nfrom pipeline import environment\nenvironment.apply(pathlib.Path.cwd())\n"
CHILD = """
import os, time
from pipeline import environment

environment.end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time

subprocess.Popen([sys.executable, "-c", {CHILD!r}])
time.sleep(60)
"""


def applied(home: Path, **user: str) -> dict[str, str]:
    """The variables of a process that has applied them, with what the user's shell had set."""
    code = SHOW + "print(json.dumps(dict(os.environ)))"
    shell = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), **user}
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=shell, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_runs_are_kept_in_the_projects_own_folder(tmp_path: Path) -> None:
    found = environment.variables(tmp_path)
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert found["PYTHONPATH"] == str(tmp_path)


def test_runs_of_a_queued_experiment_outlive_the_copy_that_it_runs_in(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpx"
    assert environment.variables(copy)["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert environment.variables(copy)["PYTHONPATH"] == str(copy)


def test_nothing_is_told_to_anyone(tmp_path: Path) -> None:
    found = applied(tmp_path)
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert found["DO_NOT_TRACK"] == "1"


def test_what_the_users_shell_has_set_is_kept(tmp_path: Path) -> None:
    found = applied(tmp_path, MLFLOW_TRACKING_URI="http://runs.example.org", RAY_DEDUP_LOGS="0", RAY_AUTH_TOKEN="own")
    assert found["MLFLOW_TRACKING_URI"] == "http://runs.example.org"
    assert found["RAY_DEDUP_LOGS"] == "0"
    assert found["RAY_AUTH_TOKEN"] == "own"


def test_a_cluster_of_our_own_has_a_token_that_nobody_can_guess(tmp_path: Path) -> None:
    first, second = applied(tmp_path), applied(tmp_path)
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("own", ["file", "path", "mode"])
def test_a_users_own_way_of_signing_in_is_left_alone(tmp_path: Path, own: str) -> None:
    user = {"file": {}, "path": {"RAY_AUTH_TOKEN_PATH": "token"}, "mode": {"RAY_AUTH_MODE": "disabled"}}[own]
    if own == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("mine", encoding="utf-8")
    assert "RAY_AUTH_TOKEN" not in applied(tmp_path, **user)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot ask for it")
def test_a_stage_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    shell = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", PARENT], env=shell, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())  # the child's, once it has asked for its signal
    process.kill()
    process.wait()
    assert gone(number), "the child outlived its parent"


def gone(number: int) -> bool:
    for _ in range(100):
        status = Path(f"/proc/{number}/stat")
        try:
            if status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    return False
