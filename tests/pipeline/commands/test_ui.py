"""The command `ui`: links to the runs of this project."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.telemetry import store, tracking, views
from pipeline.commands.ui import links
from tests.pipeline.conftest import CANVASMAR, ROOT, environment


def views_of(client: MlflowClient) -> dict[str, Any]:
    """The states of MLflow's page that the links name."""
    tags = client.get_experiment("1").tags
    return {key.removeprefix(views.TAG): json.loads(value) for key, value in tags.items() if key.startswith(views.TAG)}


def fill(root: Path) -> None:
    """Two rows with a search of two trials each; the evaluations differ in learning rate and order."""
    for row, rate, order in (("one", 0.01, "random"), ("two", 0.02, "motion_aware")):
        tags = {"row": row, "params": row, "input.model": row}
        settings = {"recipe.learning_rate": rate, "model.width": 128}
        for name in (f"earlier@{row}", f"sweep@{row}"):
            with tracking.run(
                name, root=root, tags={"stage": "sweep", **tags}, row=settings,
                parameters={"search.objectives": ["fvd", "milliseconds_per_frame"]},
            ) as search:  # fmt: skip
                for scale in (1.0, 2.0):
                    with search.handle.child(f"scale {scale}", {"scale": scale, "sets": 4}, {"part": "trial"}) as trial:
                        trial.metrics({"fvd": scale, "fvd_low": 0.0, "fvd_high": 3.0, "milliseconds_per_frame": 5.0})
        with tracking.run(
            f"evaluate@{row}", root=root, tags={"stage": "evaluate", **tags}, row=settings,
            parameters={**settings, "sampler.order": order, "sampler.sets": 4},
        ) as scored:  # fmt: skip
            scored.scores({"fvd": 1000 * rate})


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """The store of a project with these runs, and the links before and after them."""
    root = tmp_path_factory.mktemp("runs")
    where = store.local_uri(root)
    tracking.prepare(where, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", where)
        assert links(MlflowClient(where), "1", "http://here").keys() == {"runs", "models by FVD", "versions"}
        fill(root)
    return MlflowClient(where)


def test_links_open_the_scores_of_rows_the_settings_by_fvd_and_each_rows_search(here: MlflowClient) -> None:
    found = links(here, "1", "http://here")
    assert list(found) == [
        "runs", "settings by FVD", "FVD by setting", "search of one", "search of two", "models by FVD", "versions",
    ]  # fmt: skip
    start = "http://here/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey="
    assert found["settings by FVD"] == f"{start}evaluations&compareRunsMode=TABLE"
    assert found["search of two"] == f"{start}search-two&compareRunsMode=CHART"
    states = views_of(here)
    assert "metrics.`fvd`" in states["rows"]["selectedColumns"]
    assert "params.`recipe.learning_rate`" in states["rows"]["selectedColumns"]
    chosen = states["evaluations"]["selectedColumns"]
    assert [name for name in chosen if name.startswith("params")] == [
        "params.`recipe.learning_rate`", "params.`sampler.order`",
    ]  # fmt: skip
    assert (states["evaluations"]["orderByKey"], states["evaluations"]["orderByAsc"]) == ("metrics.`fvd`", True)
    rate, everything = states["evaluations"]["compareRunCharts"]
    assert (rate["xaxis"]["key"], rate["yaxis"]["key"]) == ("recipe.learning_rate", "fvd")
    assert everything["selectedParams"] == ["recipe.learning_rate", "sampler.order"]


def test_the_link_of_a_rows_search_shows_its_last_trials_with_intervals(here: MlflowClient) -> None:
    links(here, "1", "http://here")
    state = views_of(here)["search-two"]
    trials = here.search_runs(["1"], state["searchFilter"])
    (search,) = {here.get_run(trial.data.tags["mlflow.parentRunId"]).info.run_name for trial in trials}
    assert search == "sweep@two"
    assert len(trials) == 2
    measured = ["fvd", "fvd_low", "fvd_high", "milliseconds_per_frame"]
    assert state["selectedColumns"] == [*(f"metrics.`{name}`" for name in measured), "params.`scale`"]
    assert [chart["type"] for chart in state["compareRunCharts"]] == ["SCATTER", "PARALLEL"]


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    variables = environment() | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    variables |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run((*CANVASMAR, "ui"), cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "start the server or correct MLFLOW_TRACKING_URI" in line
    assert "Traceback" not in done.stderr
