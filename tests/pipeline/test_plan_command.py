"""The command `plan`."""

from typing import Any

from components.config import read_yaml
from pipeline import plan
from pipeline.stage import resolve
from tests.pipeline.conftest import ROOT, tiny


def report(rates: list[float], **recipe: Any) -> str:
    tables = tiny(read_yaml(ROOT / "params.yaml"))
    tables["recipes"]["model"] |= recipe
    return plan.report(resolve(plan.Params, tables, "experiments", "kuka-canvasmar"), rates)


def test_a_plan_needs_the_parameters_alone_and_says_what_a_training_takes() -> None:
    said = report([2.0])
    words = ["parameters", "tokens", "a step", "memory", "steps", "hours"]
    assert [line[2:14].strip() for line in said.splitlines() if line[2] != " "] == words
    assert "16 a frame, 256 predicted in a step, 1.54e+03 in all" in said
    assert "on each worker with 2 clips at once" in said
    assert "6, and a checkpoint of" in said
    assert "at 2 TFLOP/s a worker" in said


def test_each_phase_has_a_plan() -> None:
    nothing = dict.fromkeys(("batch", "learning_rate", "frames", "resolution", "frame_noise", "canvas_noise"))
    small = {**nothing, "steps": 2, "frames": 4, "resolution": [16, 16]}
    said = report([1.0], phases=[small, {**nothing, "steps": 3, "frames": 4}, {**nothing, "steps": 5}])
    assert "phase 1 of 3:" in said
    assert "4 a frame, 24 predicted in a step, 48 in all" in said
    assert "phase 2 of 3:" in said
    assert "16 a frame, 96 predicted in a step, 288 in all" in said
    assert "phase 3 of 3:" in said
    assert "16 a frame, 256 predicted in a step, 1.28e+03 in all" in said
