"""The command `ui`: links to the runs of this project."""

import subprocess
from pathlib import Path
from urllib.parse import unquote

from components.telemetry import tracking
from pipeline.commands.ui import links
from tests.pipeline.conftest import CANVASMAR, ROOT, environment


def test_the_trials_of_the_last_search_are_a_link_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = tracking.uri(tmp_path)
    experiment = tracking.prepare(where, tmp_path)
    bare = links(tracking.connect(where), experiment, "http://127.0.0.1:5000")
    assert bare.keys() == {"table of runs", "charts", "models"}
    assert bare["table of runs"] == "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
    with tracking.run("sweep@row", root=tmp_path, tags={"stage": "sweep"}, parameters={}) as search:
        for scale in (1.0, 2.0):
            with search.handle.child(f"scale {scale}", {"scale": scale}, {"part": "trial"}) as trial:
                trial.metrics({"fvd": scale})
    found = links(tracking.connect(where), experiment, "http://127.0.0.1:5000")
    assert found["last search"].endswith(f"/experiments/1/runs/{search.id}?workflowType=machine_learning")
    asked = unquote(found["its trials"])
    assert asked.count('"') == 6
    assert search.id not in asked


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    variables = environment() | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run((*CANVASMAR, "ui"), cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "start the server or correct MLFLOW_TRACKING_URI" in line
    assert "Traceback" not in done.stderr
