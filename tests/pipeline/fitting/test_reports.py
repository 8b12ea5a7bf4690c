"""What Ray Train knows of a training: its callbacks hear reports, and its result names the checkpoints on the disk."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import TRAIN, run
from tests.pipeline.fitting.test_training import checkpoints, with_moments

pytestmark = pytest.mark.faults
# the stage `train` with a callback of Ray; before the stage deletes the checkpoints, it writes what Ray says of them
STAGE = """
import json, sys
from pathlib import Path
from pipeline import train
from pipeline.fitting import trainer
from pipeline.runtime import stage
import ray.train

ROOT = Path.cwd()
fit = trainer.fit

class Heard(ray.train.UserCallback):
    def after_report(self, run_context, metrics, checkpoint):
        with (ROOT / "heard.jsonl").open("a") as file:
            file.write(json.dumps({"metrics": metrics, "checkpoint": checkpoint and checkpoint.path}) + "\\n")

def facts(one):
    with one.as_directory() as folder:
        return json.loads((Path(folder) / "facts.json").read_text())

def told(result):
    best = [(facts(one)["step"], metrics) for one, metrics in result.best_checkpoints]
    return {"metrics": result.metrics, "newest": facts(result.checkpoint), "best": best, "path": result.checkpoint.path}

def fit_and_tell(job, log):
    fitted = fit(job, log, callbacks=[Heard()])
    read = told(ray.train.Result.from_path(fitted.result.path))
    kept = sorted(path.name for path in Path(fitted.result.path).glob("checkpoint_[0-9]*"))
    content = {"result": told(fitted.result), "read": read, "history": fitted.history, "kept": kept}
    (ROOT / "told.json").write_text(json.dumps(content))
    return fitted

trainer.fit = fit_and_tell
stage.run(train.main, rows="experiments")
"""


def test_callbacks_hear_every_interval_of_all_workers_and_the_result_names_the_checkpoints_that_are_kept(
    project: Path, edit: Any
) -> None:
    with_moments(project)
    for key, value in {"steps": 50, "log_every": 10, "checkpoint_every": 10, "workers": 2, "keep": 1}.items():
        edit(project, f"recipes.model.{key}", value)
    (project / "heard.py").write_text(STAGE, encoding="utf-8")
    run(project, "python", "heard.py", *TRAIN[2:], "out")
    heard = [json.loads(line) for line in (project / "heard.jsonl").read_text("utf-8").splitlines()]
    told = json.loads((project / "told.json").read_text("utf-8"))
    assert [[one["step"] for one in report["metrics"]] for report in heard] == [[n, n] for n in range(10, 51, 10)]
    assert [Path(report["checkpoint"]).name for report in heard] == [f"checkpoint_{n:09d}" for n in range(10, 51, 10)]
    result, last = told["result"], told["history"][-1]
    assert result["metrics"] == heard[-1]["metrics"][0] == last
    assert result["newest"]["step"] == 50
    assert result["newest"]["validation_loss"] == last["validation_loss"]
    assert Path(result["path"]).parent.parent == project / ".state" / "cache" / "training"  # written in place, once
    # validated at 20, 40 and 50: the lowest loss is kept besides the newest, and Ray lists what is on the disk
    losses = {row["step"]: row["validation_loss"] for row in told["history"] if "validation_loss" in row}
    kept = sorted({50, min(losses, key=lambda step: losses[step])})
    assert told["kept"] == [f"checkpoint_{step:09d}" for step in kept]
    assert sorted(step for step, _ in result["best"]) == kept
    assert all(metrics["validation_loss"] == losses[step] for step, metrics in result["best"])
    assert told["read"] == result


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_training_with_one_sentence(
    project: Path, small_disk: Path
) -> None:
    with_moments(project)
    (project / ".state" / "cache").symlink_to(small_disk)
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 300_000))
    said = run(project, "python", *TRAIN, "out", check=False)
    assert said.returncode == 2
    assert "error: the checkpoint of step 20 needs " in said.stderr
    assert "to start again, as there is no earlier checkpoint" in said.stderr
    assert "Traceback" not in said.stderr
    assert checkpoints(project) == []
