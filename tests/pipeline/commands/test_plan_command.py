"""The command `plan`."""

import re
from typing import Any

import pytest

from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.commands import plan
from pipeline.runtime.stage import resolve
from tests.pipeline.conftest import ROOT, tiny


def report(rates: list[float], **recipe: Any) -> str:
    tables = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    tables["recipes"]["model"] |= recipe
    return plan.report(resolve(plan.Params, tables, "experiments", "kuka-canvasmar"), rates)


def test_a_plan_needs_the_parameters_alone_and_says_what_a_training_takes() -> None:
    said = report([2.0])
    words = ["parameters", "tokens", "per step", "memory", "steps", "time"]
    assert [line[2:14].strip() for line in said.splitlines() if line[2] != " "] == words
    assert "16 per frame, 256 predicted per step, 1.54e+03 in total" in said
    assert "per worker for a micro-batch of 2 clips" in said
    assert "6, with a checkpoint of" in said
    assert "holds a copy of that size in its memory" in said
    assert re.search(r"at 2 TFLOP/s per worker \d+\.\d s$", said)


def test_each_phase_has_a_plan() -> None:
    nothing = dict.fromkeys(("batch", "learning_rate", "frames", "resolution", "frame_noise", "canvas_noise"))
    small = {**nothing, "steps": 2, "frames": 4, "resolution": [16, 16]}
    said = report([1.0], phases=[small, {**nothing, "steps": 3, "frames": 4}, {**nothing, "steps": 5}])
    assert "phase 1 of 3:" in said
    assert "4 per frame, 24 predicted per step, 48 in total" in said
    assert "phase 2 of 3:" in said
    assert "16 per frame, 96 predicted per step, 288 in total" in said
    assert "phase 3 of 3:" in said
    assert "16 per frame, 256 predicted per step, 1.28e+03 in total" in said


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InputError, match="--rate is 0; use a positive number"):
        plan.run("kuka-canvasmar", ROOT / "presets" / "kuka.yaml", [1.0, 0.0])
