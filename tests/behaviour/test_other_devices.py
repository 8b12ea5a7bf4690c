"""Nothing is left on the CPU when a model is elsewhere, and no step makes the host wait for the device."""

import os
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.pipeline.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch cannot invent a device",
)


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What is wrong with each part of the work on a device that has no numbers."""
    done = subprocess.run(
        (sys.executable, "-m", "tests.behaviour.on_another_device"),
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_sampling_training_coding_scoring_and_predicting_stay_on_the_device_and_ask_it_for_no_number(told):
    checks = {"copied", "waited", "mixed"}
    assert len(told) == 2 * 8 + 3 + len(checks)
    assert {part: wrong for part, wrong in told.items() if part not in checks and wrong != "nothing"} == {}


def test_that_would_be_seen(told):
    assert told["copied"] == "RuntimeError (3,) is copied from cpu to elsewhere:0"
    assert told["waited"].startswith("DataDependentOutputException")
    assert "elsewhere:0 and cpu" in told["mixed"]
