"""Runs and artifacts lie in the project's own folder, whatever its name, and also after it was moved or copied."""

import os
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.telemetry import store, tracking

MODEL = "canvasmar-row"


def log_note(root: Path, text: str) -> str:
    """A run of the project whose only artifact is a note."""
    note = root / "note.txt"
    note.write_text(text)
    with tracking.run("train", root=root, tags={}, parameters={}) as run:
        assert run.artifact(note)
    return run.id


def read_note(root: Path, run: str, aside: Path) -> str:
    aside.mkdir(exist_ok=True)
    return Path(MlflowClient(store.uri(root)).download_artifacts(run, "note.txt", str(aside))).read_text()


def notes(root: Path) -> list[Path]:
    return sorted((root / "mlruns").rglob("note.txt"))


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a run, its artifact, and a version of a model."""
    root = tmp_path / "project"
    root.mkdir()
    run = log_note(root, "first")
    client = MlflowClient(store.uri(root))
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"{client.get_run(run).info.artifact_uri}/served", run)
    return root


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "ü's"])
def test_runs_lie_in_the_project_whatever_its_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "projects" / name
    root.mkdir(parents=True)
    monkeypatch.chdir(root)
    run = log_note(root, "here")
    assert os.listdir(tmp_path / "projects") == [name]
    assert sorted(os.listdir(root)) == ["mlruns", "note.txt"]
    assert (root / "mlruns" / "mlflow.db").is_file()
    assert notes(root) == [root / "mlruns" / "artifacts" / run / "artifacts" / "note.txt"]
    assert read_note(root, run, tmp_path / "aside") == "here"
    assert store.database(store.uri(root)) == root / "mlruns" / "mlflow.db"


@pytest.mark.parametrize("name", ["elsewhere", "a#b"])
def test_a_moved_project_keeps_its_artifacts_and_does_not_make_its_former_place_again(
    project: Path, tmp_path: Path, name: str
) -> None:
    (first,) = [path.parts[-3] for path in notes(project)]
    moved = project.rename(tmp_path / name)
    second = log_note(moved, "second")
    assert not project.exists()
    assert len(notes(moved)) == 2
    assert [read_note(moved, run, tmp_path / "aside") for run in (first, second)] == ["first", "second"]
    served = MlflowClient(store.uri(moved)).get_model_version_download_uri(MODEL, "1")
    assert served == f"{MlflowClient(store.uri(moved)).get_run(first).info.artifact_uri}/served"


def test_a_copied_project_leaves_the_original_alone(project: Path, tmp_path: Path) -> None:
    before = content(project)
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    log_note(copy, "second")
    assert content(project) == before
    assert len(notes(copy)) == 2


@pytest.mark.parametrize("location", ["s3://bucket/mlruns/artifacts", "/elsewhere/artifacts"])
def test_artifacts_that_were_put_elsewhere_on_purpose_stay_there(tmp_path: Path, location: str) -> None:
    client = MlflowClient(store.uri(tmp_path))
    client.create_experiment(store.EXPERIMENT, artifact_location=location)
    store.prepare(store.uri(tmp_path), tmp_path)
    assert client.get_experiment_by_name(store.EXPERIMENT).artifact_location == location
