import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from components.foundation.errors import InputError
from components.telemetry import registry, tracking

PROJECT = Path(__file__).parents[3]


def begin(root, **others):
    return tracking.run("train", root=root, **({"tags": {}, "parameters": {}} | others))


def read(root, run):
    return MlflowClient(tracking.uri(root)).get_run(run)


def script(body, root):
    start = (
        f"from pathlib import Path\nfrom components.telemetry import registry, tracking\nroot = Path({str(root)!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", start + body], cwd=PROJECT, stderr=subprocess.PIPE)


def test_the_environment_names_the_store_and_otherwise_the_project_holds_it(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.uri(tmp_path) == "http://server:5000"


def test_the_environment_names_the_experiment_and_its_artifacts_lie_beside_the_others(root, monkeypatch):
    with begin(root):
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "anna")
    with begin(root) as run:
        pass
    client = MlflowClient(tracking.uri(root))
    anna = client.get_experiment_by_name("anna")
    assert anna.artifact_location == f"{root}/mlruns/artifacts"
    assert [found.info.run_id for found in client.search_runs([anna.experiment_id])] == [run.id]
    assert registry.registered_name("row") == "anna-row"


def test_importing_the_module_imports_no_mlflow():
    code = "import sys, components.telemetry.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_processes_that_prepare_a_fresh_store_at_once_agree_on_one_experiment(tmp_path):
    body = "assert tracking.prepare(tracking.uri(root), root) == '1'"
    racers = [script(body, tmp_path) for _ in range(3)]
    assert [racer.wait() for racer in racers] == [0, 0, 0]
    experiment = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db").get_experiment("1")
    assert (experiment.name, experiment.artifact_location) == ("canvasmar", f"{tmp_path}/mlruns/artifacts")


def test_a_run_holds_its_parameters_metrics_and_tags_and_ends_finished(root):
    with begin(
        root, tags={"stage": "train", "commit": "abc"}, parameters={"lr": 0.1, "size": (64, 64), "canvas": None}
    ) as run:
        run.metrics({"loss": 2.0, "clips/s": 3.0, "odd;key": 1.0}, step=1)
        run.metrics({"loss": 1.0}, step=2)
        run.tags({"device": "cpu"})
    stored = read(root, run.id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"lr": "0.1", "size": "[64, 64]", "canvas": "null"}
    assert stored.data.metrics == {"loss": 1.0, "clips/s": 3.0, "odd_key-98691d8b": 1.0}
    assert stored.data.tags["device"] == "cpu"
    assert stored.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.link.startswith("http://127.0.0.1:5000/#/experiments/1/runs/")


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_that_breaks_off_says_so_and_keeps_its_metrics(root, error, status):
    runs = []

    def work():
        with begin(root) as run:
            runs.append(run.id)
            run.metrics({"loss": 1.0})
            raise error

    with pytest.raises(error):
        work()
    assert read(root, runs[0]).info.status == status
    assert read(root, runs[0]).data.metrics == {"loss": 1.0}


def test_more_metrics_and_parameters_than_one_call_takes_all_arrive(root):
    with begin(root, parameters={f"p{index}": index for index in range(250)}) as run:
        for step in range(1100):
            run.metrics({"a": step, "b": -step}, step=step)
    assert len(read(root, run.id).data.params) == 250
    assert len(MlflowClient(tracking.uri(root)).get_metric_history(run.id, "a")) == 1100


def test_a_parameter_too_long_for_mlflow_is_shortened_and_kept_whole_in_an_artifact(root, tmp_path):
    with begin(root, parameters={"long": "x" * 7000, "short": 1}) as run:
        pass
    assert len(read(root, run.id).data.params["long"]) == 6000
    path = MlflowClient(tracking.uri(root)).download_artifacts(run.id, "parameters.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {"long": "x" * 7000, "short": "1"}


def test_a_name_that_mlflow_refuses_loses_nothing_stays_distinct_and_is_told_once(root, caplog):
    names = [
        "lr",
        "a+b",
        "a b",
        "cost (€)",
        "cost ($)",
        "",
        "..",
        "../up",
        "/top",
        "a//b",
        "line\n",
        "\udc80",
        "x" * 300,
    ]
    values = {name: str(index) for index, name in enumerate(names)}
    with caplog.at_level(logging.WARNING, logger="components.telemetry.tracking"):
        with begin(root, tags=values, parameters=values) as run:
            for step in range(2):
                run.metrics({name: float(value) for name, value in values.items()}, step)
            run.tags({"later (€)": "1", "later ($)": "2", "file": "\udc80.mp4"})
        told = [record.getMessage() for record in caplog.records]
    stored = read(root, run.id).data
    assert sorted(stored.params.values(), key=int) == list(values.values())
    assert sorted(stored.metrics.values()) == [float(value) for value in values.values()]
    assert values.items() & stored.params.items() == {("lr", "0"), ("a b", "2")}
    assert set(stored.params) <= set(stored.tags)
    assert {value for key, value in stored.tags.items() if key.startswith("later _")} == {"1", "2"}
    assert stored.tags["file"] == "\\udc80.mp4"
    assert [message.count("'a+b' as a_b-") for message in told] == [1, 0]


def test_files_folders_images_and_figures_become_artifacts(root, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "notes.txt").write_text("hello")
    with begin(root) as run:
        run.artifact(tmp_path / "some" / "notes.txt", "one")
        run.artifact(tmp_path / "some", "all")
        run.figure(Figure(), "figures/empty.png")
        run.figure(Figure(), "top.png")
        run.image(np.zeros((4, 4, 3), np.uint8), "sample", step=3)
    client = MlflowClient(tracking.uri(root))
    names = {
        entry.path for folder in (None, "one", "all", "figures") for entry in client.list_artifacts(run.id, folder)
    }
    assert {"one/notes.txt", "all/notes.txt", "figures/empty.png", "top.png"} <= names
    assert any("sample+step+3" in Path(entry.path).name for entry in client.list_artifacts(run.id, "images"))


def test_a_data_set_is_an_input_of_the_run(root):
    with begin(root) as run:
        run.dataset("clips", "data/clips", "0123456789" * 5, "training")
    (used,) = read(root, run.id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == (
        "clips",
        ("0123456789" * 5)[:36],
        "training",
    )


def test_a_handle_crosses_processes_and_makes_children_there(root):
    with begin(root) as run:
        body = (
            f"import pickle\nhandle = pickle.loads({pickle.dumps(run.handle)!r})\n"
            "with handle.open() as same: same.metrics({'far': 7.0})\n"
            "with handle.child('trial', {'scale': 2.0}) as child: child.metrics({'fvd': 9.0})\n"
        )
        assert script(body, root).wait() == 0
        assert read(root, run.id).info.status == "RUNNING"
    assert read(root, run.id).data.metrics["far"] == 7.0  # system metrics beside it where this takes long
    client = MlflowClient(tracking.uri(root))
    (child,) = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{run.id}'")
    assert (child.info.status, child.data.params, child.data.metrics) == ("FINISHED", {"scale": "2.0"}, {"fvd": 9.0})


def test_children_that_were_stopped_from_outside_end_with_their_parent(root):
    body = "import os\nwith handle.child('trial', {}) as child: os._exit(1)\n"
    with begin(root) as run:
        assert script(f"import pickle\nhandle = pickle.loads({pickle.dumps(run.handle)!r})\n{body}", root).wait() == 1
    client = MlflowClient(tracking.uri(root))
    assert [child.info.status for child in client.search_runs(["1"], "tags.mlflow.parentRunId != ''")] == ["KILLED"]


def test_a_run_whose_process_was_killed_is_ended_by_the_next_and_a_living_one_is_not(root):
    body = "import os\nwith tracking.run('dead', root=root, tags={}, parameters={}): os._exit(1)\n"
    assert script(body, root).wait() == 1
    with begin(root) as living:
        tracking.prepare(tracking.uri(root), root)
        runs = MlflowClient(tracking.uri(root)).search_runs(["1"])
        assert {run.info.run_name: run.info.status for run in runs} == {"dead": "KILLED", "train": "RUNNING"}
    assert read(root, living.id).info.status == "FINISHED"


def test_a_store_that_fails_does_not_stop_the_work_warns_once_and_loses_nothing(root, caplog):
    database, aside = root / "mlruns" / "mlflow.db", root / "aside.db"
    with begin(root) as run, caplog.at_level(logging.WARNING, logger="components.telemetry.tracking"):
        shutil.copy(database, aside)
        database.write_bytes(b"this is no database" * 100)
        run.metrics({"loss": 1.0}, step=1)
        assert not run.flush()
        assert not run.flush()
        run.tags({"a": "b"})
        run.artifact(root / "missing.txt")
        assert [("metrics" in record.message) for record in caplog.records].count(True) == 1
        shutil.copy(aside, database)
        run.metrics({"loss": 2.0}, step=2)
        assert run.flush()
    assert len(MlflowClient(tracking.uri(root)).get_metric_history(run.id, "loss")) == 2
    assert read(root, run.id).info.status == "FINISHED"


def test_metrics_are_sent_while_the_run_goes_on(root, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.1)
    with begin(root) as run:
        run.metrics({"loss": 1.0})
        deadline = time.monotonic() + 20
        while not read(root, run.id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.1)
        assert read(root, run.id).data.metrics == {"loss": 1.0}


def test_threads_may_log_into_one_run(root):
    with begin(root) as run, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda step: run.metrics({"x": step}, step=step), range(200)))
    assert len(MlflowClient(tracking.uri(root)).get_metric_history(run.id, "x")) == 200


def test_the_use_of_the_machine_is_logged(root, monkeypatch):
    monkeypatch.setattr(tracking, "SYSTEM_SECONDS", 0.2)
    with begin(root) as run:
        time.sleep(1.5)
    assert any(key.startswith("system/") for key in read(root, run.id).data.metrics)


def test_a_deleted_experiment_is_used_again(root):
    client = MlflowClient(tracking.uri(root))
    client.delete_experiment("1")
    with begin(root):
        pass
    assert client.get_experiment("1").lifecycle_stage == "active"


def test_a_run_that_is_deleted_while_it_runs_warns_once_and_gets_its_metrics_when_it_is_restored(root, caplog):
    client = MlflowClient(tracking.uri(root))
    with begin(root) as run, caplog.at_level(logging.WARNING, logger="components.telemetry.tracking"):
        client.delete_run(run.id)
        run.metrics({"loss": 1.0})
        assert not run.flush()
        assert not run.flush()
        (told,) = [record.getMessage() for record in caplog.records if "metrics" in record.getMessage()]
        assert f"cannot log metrics of run {run.id}" in told
        client.restore_run(run.id)
    assert read(root, run.id).data.metrics == {"loss": 1.0}


@pytest.mark.parametrize("address", ["http://someone:secret@127.0.0.1:9", "file:/tmp/somewhere", "nonsense://x"])
def test_a_store_that_cannot_be_used_is_one_sentence_without_its_password(tmp_path, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(InputError, match=r"MLflow cannot use the store .*correct MLFLOW_TRACKING_URI") as caught,
        begin(tmp_path),
    ):
        pass
    assert "secret" not in str(caught.value)


def test_provenance_names_commit_and_machine_and_does_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@kuka")
    outside = tracking.provenance(tmp_path)
    assert outside["dvc_stage"] == "train@kuka"
    assert {"python", "torch", "cpus"} <= outside.keys()
    assert "commit" not in outside
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, env=os.environ | names)
    assert len(tracking.provenance(tmp_path)["commit"]) == 40
    assert tracking.provenance(tmp_path)["dirty"] == "false"
    (tmp_path / "dvc.lock").write_text("written by the run itself")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "report.json").write_text("{}")
    assert tracking.provenance(tmp_path)["dirty"] == "false"
    (tmp_path / "new.txt").write_text("x")
    assert tracking.provenance(tmp_path)["dirty"] == "true"
