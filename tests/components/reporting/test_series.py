import json

import pandas as pd
import pytest
import yaml

from components.reporting import results, series
from tests.pipeline.conftest import ROOT

ROWS = ("with-canvas", "no-canvas")


@pytest.fixture
def written(finished, tmp_path):
    histories = {row: results.read_history(finished / row / "training") for row in ROWS}
    evaluations = [results.read_evaluation(finished / row / "evaluation") for row in ROWS]
    series.write(histories, evaluations, {"with-canvas": results.read_sweep(finished / "sweep")}, tmp_path / "plots")
    return {name: pd.read_csv(tmp_path / "plots" / f"{name}.csv") for name in series.FILES}


def test_every_point_stands_on_a_line_of_its_own_with_its_row(written):
    assert written["training"].groupby("row")["loss"].apply(list)["no-canvas"] == [1.8, 1.2, 0.9]
    assert list(written["validation"]["validation_loss"]) == [1.0, 1.0]
    assert written["visible"].groupby("row")["flow"].apply(list)["with-canvas"] == [0.9, 0.7]
    assert list(written["scores"]["row"]) == ["with-canvas", "real against real", "copy last frame", "no-canvas"]
    drifted = written["drift"]
    assert list(drifted[drifted["row"] == "with-canvas"]["frame"]) == [4, 8]
    assert len(drifted) == 6
    assert list(written["search"]["fvd"]) == [700, 650, 690]


def test_what_dvc_plots_is_written_and_has_the_columns_and_the_template(written, tmp_path):
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    drawn = {path: how for entry in plots if isinstance(entry, dict) for path, how in entry.items()}
    assert {path.rpartition("/")[2].removesuffix(".csv") for path in drawn} == set(series.FILES)
    for path, how in drawn.items():
        assert {how["x"], how["y"], "row"} <= set(written[path.rpartition("/")[2].removesuffix(".csv")])
        template = (ROOT / ".dvc" / "plots" / f"{how['template']}.json").read_text(encoding="utf-8")
        assert json.loads(template)["data"] == {"values": "<DVC_METRIC_DATA>"}


def test_a_search_by_short_trainings_has_no_line_among_the_scores_of_samplers(finished, tmp_path):
    trials = pd.read_csv(finished / "sweep" / "trials.csv").drop(columns=["fvd", "milliseconds_per_frame"])
    training = tmp_path / "training"
    training.mkdir()
    trials.assign(validation_flow=[0.2, 0.1, None, 0.3]).to_csv(training / "trials.csv", index=False)
    best = {"trial": "t1", "objectives": {"validation_flow": 0.1}, "sampler": {}}
    (training / "best.json").write_text(json.dumps(best))
    sweeps = {"a": results.read_sweep(finished / "sweep"), "b": results.read_sweep(training)}
    series.write({}, [], sweeps, tmp_path / "plots")
    assert set(pd.read_csv(tmp_path / "plots" / "search.csv")["row"]) == {"a"}


def test_nothing_done_is_files_without_lines(tmp_path):
    series.write({}, [], {}, tmp_path / "plots")
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == set(series.FILES)
    assert all(pd.read_csv(path).empty for path in (tmp_path / "plots").iterdir())
