"""The runs of a row form one tree: a parent run with the row's settings and newest scores, its stages, their trials."""

import platform
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.telemetry import registry, tracking

SETTINGS = {"model.width": 128, "recipe.learning_rate": 0.01}


@contextmanager
def train(root: Path, trained: str, *, params: str = "p", latents: str = "l"):
    """A training of the row that ends with the model of this hash."""
    tags = {"stage": "train", "row": "row", "params": params, "input.latents": latents}
    with tracking.run("train@row", root=root, tags=tags, parameters=SETTINGS, row=SETTINGS) as log:
        yield log
        log.tags({"output": trained})


@contextmanager
def read(root: Path, stage: str, model: str, params: str = "q"):
    """A stage of the row that reads the model of this hash."""
    tags = {"stage": stage, "row": "row", "params": params, "input.model": model}
    with tracking.run(f"{stage}@row", root=root, tags=tags, parameters=SETTINGS, row=SETTINGS) as log:
        yield log


def client(root: Path) -> MlflowClient:
    return MlflowClient(tracking.uri(root))


def parents(root: Path) -> list:
    return client(root).search_runs(["1"], "tags.part = 'row'")


def parent(root: Path, log: tracking.Run) -> str:
    return client(root).get_run(log.id).data.tags["mlflow.parentRunId"]


def test_stages_of_a_row_and_repeated_ones_are_below_one_run_that_shows_settings_and_newest_scores(root) -> None:
    with train(root, "m") as trained:
        trained.scores({"validation_loss": 2.0})
    with read(root, "sweep", "m") as search, search.handle.child("0: r 0.1", {"r": 0.1}) as trial:
        pass
    scored = []
    for fvd in (500.0, 400.0):
        with read(root, "evaluate", "m", params=f"{fvd}") as log:
            log.scores({"fvd": fvd})
            log.metrics({"stage_seconds": 3.0})
        scored.append(log)
    with train(root, "other weights from the same settings") as again:
        pass
    (row,) = parents(root)
    assert {parent(root, log) for log in (trained, search, *scored, again)} == {row.info.run_id}
    assert parent(root, trial) == search.id
    assert (row.info.run_name, row.info.status) == ("row", "FINISHED")
    assert row.data.params == {"model.width": "128", "recipe.learning_rate": "0.01"}
    assert row.data.metrics == {"validation_loss": 2.0, "fvd": 400.0}


@pytest.mark.parametrize("change", [{"params": "other"}, {"latents": "other"}])
def test_other_settings_or_inputs_are_another_tree_which_the_stages_after_it_join(root, change) -> None:
    with train(root, "m"):
        pass
    with train(root, "n", **change) as second:
        pass
    with read(root, "evaluate", "n") as log:
        pass
    assert len(parents(root)) == 2
    assert parent(root, log) == parent(root, second)


def test_stages_of_a_model_that_was_pulled_share_a_tree(root) -> None:
    for stage in ("sweep", "evaluate"):
        with read(root, stage, "pulled"):
            pass
    assert len(parents(root)) == 1


def test_a_row_whose_run_was_deleted_in_the_ui_gets_another(root) -> None:
    with train(root, "m") as log:
        pass
    deleted = parent(root, log)
    client(root).delete_run(deleted)
    with read(root, "evaluate", "m") as again:
        pass
    assert parent(root, again) != deleted


def test_a_row_runs_while_a_stage_of_it_runs_and_ends_as_the_stage_ended(root) -> None:
    with train(root, "m"):
        assert [row.info.status for row in parents(root)] == ["RUNNING"]
    assert [row.info.status for row in parents(root)] == ["FINISHED"]
    with suppress(KeyboardInterrupt), read(root, "sweep", "m"):
        assert [row.info.status for row in parents(root)] == ["RUNNING"]
        raise KeyboardInterrupt
    assert [row.info.status for row in parents(root)] == ["KILLED"]


def test_a_row_of_a_dead_process_ends_without_the_stages_that_still_run(root) -> None:
    with train(root, "m") as living:
        (row,) = parents(root)
        client(root).set_tag(row.info.run_id, "process", f"{platform.node()} 1 0")  # pid 1 has begun later
        tracking.prepare(tracking.uri(root), root)
        assert [run.info.status for run in parents(root)] == ["KILLED"]
        assert client(root).get_run(living.id).info.status == "RUNNING"


def test_the_logged_model_of_the_training_is_what_later_stages_read_and_scores_hang_on_models(root) -> None:
    (root / "weights").mkdir()
    (root / "weights" / "weights.safetensors").write_bytes(b"weights")
    with train(root, "m") as trained:
        trained.dataset("push", "data/latents/push", "abc", "latents")
        registry.log_weights(trained, root / "weights", data="latents")
        trained.scores({"validation_loss": 2.0})
    with read(root, "evaluate", "m") as scored:
        pass
    (written,) = client(root).get_run(trained.id).outputs.model_outputs
    (used,) = client(root).get_run(scored.id).inputs.model_inputs
    assert used.model_id == written.model_id
    model = client(root).get_logged_model(written.model_id)
    assert (model.name, model.status, model.source_run_id) == ("row", "READY", trained.id)
    assert model.params == {"model.width": "128", "recipe.learning_rate": "0.01"}
    (score,) = model.metrics
    assert (score.key, score.value, score.dataset_name, score.dataset_digest) == ("validation_loss", 2.0, "push", "abc")
    assert [file.read_bytes() for file in root.rglob("mlruns/**/weights.safetensors")] == [b"weights"]
