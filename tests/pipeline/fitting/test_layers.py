"""A training step is a few calls below the command: few enough to read from the stage down to the optimiser."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import TRAIN, run
from tests.pipeline.untrained import write_latents

pytestmark = pytest.mark.faults
MOST = 7  # calls of our own, the optimiser's step included, beside Ray's
STACK = """

import json as _json, sys as _sys, threading as _threading, traceback as _traceback
from pathlib import Path as _Path
_ROOT = _Path(__file__).parents[2]

def _own(frame):
    stack = _traceback.extract_stack(frame)
    paths = [(_Path(one.filename), one.name) for one in stack]
    inside = [(path.relative_to(_ROOT), name) for path, name in paths if path.is_relative_to(_ROOT)]
    return [f"{path}:{name}" for path, name in inside if path.parts[0] in ("components", "pipeline")]

def _write(name, calls):
    (_ROOT / f"{name}.json").write_text(_json.dumps(calls))
"""
# in the driver: the thread that calls Ray, and the main thread once it waits for that one
DRIVER = """
_fit = TorchTrainer.fit

def _recorded(self):
    main = _threading.main_thread().ident
    while _sys._current_frames()[main].f_code.co_filename != _threading.__file__:
        pass
    _write("driver", _own(_sys._current_frames()[main]) + _own(_sys._getframe(1)))
    return _fit(self)

TorchTrainer.fit = _recorded
"""
WORKER = """
from torch.optim.optimizer import register_optimizer_step_pre_hook as _before_step

_before_step(lambda *_: _write("worker", _own(_sys._getframe(1))))
"""


def test_from_the_command_to_the_step_of_the_optimiser_it_is_at_most_seven_calls(project: Path) -> None:
    write_latents(project / "latents", project / "vae")
    for path, recorder in (("pipeline/fitting/trainer.py", DRIVER), ("components/training/optimizer.py", WORKER)):
        file = project / path
        file.write_text(file.read_text(encoding="utf-8") + STACK + recorder, encoding="utf-8")
    run(project, "python", *TRAIN, "out")
    driver, worker = (json.loads((project / f"{name}.json").read_text("utf-8")) for name in ("driver", "worker"))
    assert driver[:3] == ["pipeline/train.py:<module>", "pipeline/runtime/stage.py:run", "pipeline/train.py:main"]
    assert worker[-1] == "components/training/loop.py:update"
    calls = [*driver[1:], *worker, "optimizer.step"]  # the module's body is called by Python
    assert len(calls) <= MOST, "\n".join(calls)
