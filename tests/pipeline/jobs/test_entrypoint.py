"""Jobs of one project on shared storage."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment, run

pytestmark = pytest.mark.faults
STAGES = """
stages:
  shared:
    cmd: sleep 8 && echo made > shared
    outs: [shared]
  own:
    cmd: cp shared own
    deps: [shared]
    outs: [own]
"""


def test_a_job_waits_for_the_stage_that_another_job_of_the_project_runs(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (tmp_path / "mlruns").mkdir()
    shell = environment() | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(("dvc", "repro", "shared"), cwd=tmp_path, env=shell, stdout=subprocess.DEVNULL)
    held = tmp_path / ".dvc" / "tmp" / "rwlock"
    while not (held.exists() and "shared" in held.read_text(encoding="utf-8")):
        assert other.poll() is None
        time.sleep(0.05)
    words = (sys.executable, "-m", "pipeline.jobs.entrypoint", "repro", "own")
    job = subprocess.run(words, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=120)
    assert job.returncode == 0, job.stderr
    assert job.stderr.count("waiting for it") == 1
    assert (tmp_path / "own").read_text() == "made\n"
    assert other.wait() == 0
