import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import environment

ROOT = Path(__file__).parents[3]
SHOW = "import os, pathlib, json\nfrom pipeline.runtime import environment\nenvironment.apply(pathlib.Path.cwd())\n"


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


def test_requests_to_this_machine_pass_by_the_users_proxy(tmp_path: Path) -> None:
    found = applied(tmp_path, http_proxy="http://proxy.example.org:3128", NO_PROXY="intranet, 127.0.0.1")
    assert found["no_proxy"] == found["NO_PROXY"] == "intranet,127.0.0.1,localhost,::1"
    assert "no_proxy" not in applied(tmp_path)


def test_a_file_that_hides_a_module_is_named_before_anything_is_imported(tmp_path: Path) -> None:
    for name in ("types.py", "torch.py", "mine.py", "test.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')\n")
    command = (sys.executable, "-m", "pipeline.commands.cli", "check")
    shell = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    # -P leaves the folder itself out of the path, as `canvasmar` does; Ray's workers have it
    for options in ((), ("-P",)):
        done = subprocess.run(
            (command[0], *options, *command[1:]), cwd=tmp_path, env=shell, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr == f"error: torch.py, types.py in {tmp_path} hides Python's module of this name; rename it\n"
