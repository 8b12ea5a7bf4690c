"""The whole journey with real libraries on a tiny world: `dvc repro` and what a user does after it."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.pipeline.conftest import CANVASMAR, ROOT, run

STAGES = (
    "simulate",
    "preprocess",
    "train_vae",
    "cache_latents",
    "train",
    "sweep",
    "evaluate",
    "ablate",
    "report",
    "weights",
)


def copy(journey: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(journey, tmp_path / "copy", symlinks=True))


def test_everything_is_up_to_date_after_one_command(journey):
    assert "up to date" in run(journey, "dvc", "status").stdout
    again = run(journey, "dvc", "repro").stdout
    assert "Running stage" not in again


def test_every_stage_has_a_finished_run_with_parameters_and_metrics(journey):
    client = MlflowClient(f"sqlite:///{journey}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("canvasmar")
    runs = client.search_runs([experiment.experiment_id])
    assert {one.info.status for one in runs} == {"FINISHED"}
    by_stage = {stage: [one for one in runs if one.data.tags.get("stage") == stage] for stage in STAGES}
    assert {stage: len(found) > 0 for stage, found in by_stage.items()} == dict.fromkeys(STAGES, True)
    for stage in ("train", "evaluate", "train_vae", "simulate", "preprocess"):
        assert all(one.data.params and one.data.metrics for one in by_stage[stage]), stage
    parents = {one.info.run_id for one in by_stage["sweep"]}
    trials = [one for one in runs if one.data.tags.get("mlflow.parentRunId") in parents]
    assert len(trials) == 4
    assert all("fvd" in one.data.metrics for one in trials)
    rows = [one for one in runs if one.data.tags.get("part") == "row"]
    assert sorted(one.info.run_name for one in rows) == ["kuka-canvasmar", "kuka-no-canvas"]
    below = [one for stage in ("train", "sweep", "evaluate") for one in by_stage[stage]]
    assert {one.data.tags["mlflow.parentRunId"] for one in below} == {one.info.run_id for one in rows}
    for one in by_stage["evaluate"]:  # FVD beside every setting that led to it
        assert "fvd" in one.data.metrics
        assert {"recipe.learning_rate", "model.temporal.width", "autoencoder.width"} <= one.data.params.keys()
        assert {"dataset.frames", "sampler.canvas_scale", "protocol.clips"} <= one.data.params.keys()
    assert all("winner.trial" in one.data.params for one in by_stage["sweep"])
    names = [file.path for one in by_stage["evaluate"] for file in client.list_artifacts(one.info.run_id)]
    assert {"videos", "pictures", "scores.json"} <= set(names)


def test_every_trial_is_compared_with_the_rows_own_sampler_on_the_same_clips(journey):
    for row in ("kuka-canvasmar", "kuka-no-canvas"):
        trials = pd.read_csv(journey / "data" / "searches" / row / "trials.csv")
        assert trials["fvd_difference"][0] == 0  # the first trial has the row's own settings
        assert trials["fvd_difference"].tolist() == pytest.approx((trials["fvd"] - trials["fvd"][0]).tolist(), abs=0.01)


def test_scores_hold_the_reference_rows(journey):
    for row in ("kuka-canvasmar", "kuka-no-canvas"):
        content = json.loads((journey / "data" / "evaluations" / row / "scores.json").read_text())
        names = [line["name"] for line in content["scores"]]
        assert names == [row, "copy last frame", "copy last frame, VAE", "VAE reconstruction", "real against real"]
        assert all(line["fvd"] >= 0 for line in content["scores"])
        assert {(window["name"], window["first"]) for window in content["drift"]} == {
            (name, first) for name in names for first in (1, 5)
        }
        assert (content["calibration"] is None) == (row == "kuka-no-canvas")
    assert not list((journey / ".state" / "cache" / "predictions").iterdir())


def test_an_ablation_scores_every_point_of_every_arm_on_the_same_clips(journey):
    folder = journey / "data" / "ablations" / "sets"
    table = pd.read_csv(folder / "table.csv")
    assert list(zip(table["arm"], table["experiment"], table["sets"], strict=True)) == [
        ("without", "kuka-no-canvas", 2),
        ("without", "kuka-no-canvas", 4),
        ("with", "kuka-canvasmar", 2),
        ("with", "kuka-canvasmar", 4),
    ]
    assert set(table["status"]) == {"finished"}
    assert table["difference"][:2].isna().all()
    assert table["difference"][2:].tolist() == pytest.approx((table["fvd"][2:].to_numpy() - table["fvd"][:2]).tolist())
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not list((journey / ".state" / "cache" / "ablation").iterdir())  # nothing is left to go on from


def test_the_report_is_one_page_that_needs_nothing_else(journey):
    page = (journey / "report" / "index.html").read_text(encoding="utf-8")
    assert "kuka-canvasmar" in page
    assert "kuka-no-canvas" in page
    assert 'src="http' not in page
    assert not re.search(r"<link[^>]+href=.(?!data:)", page)
    card = (journey / "report" / "model_card.md").read_text(encoding="utf-8")
    assert "simulated by this pipeline (shapes, seed 0)" in card
    assert "kuka-no-canvas is not comparable" in card


def test_the_report_reads_no_run_of_mlflow(journey, tmp_path):
    folder = copy(journey, tmp_path)
    before = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Resource usage by stage" in before
    shutil.rmtree(folder / "mlruns")
    (folder / "mlruns").mkdir()
    run(folder, "dvc", "repro", "--force", "--single-item", "report")
    assert (folder / "report" / "index.html").read_text(encoding="utf-8") == before


@pytest.mark.faults
def test_another_sampler_value_trains_nothing_again(journey, tmp_path):
    folder = copy(journey, tmp_path)
    told = run(folder, "dvc", "exp", "run", "-S", "samplers.default.flow_steps=3").stdout
    ran = {line.split("'")[1].split("@")[0] for line in told.splitlines() if line.startswith("Running stage")}
    assert ran == {"sweep", "evaluate", "report"}  # the ablation begins with another sampler
    assert "Running stage 'sweep@kuka-no-canvas'" not in told


@pytest.mark.faults
def test_the_same_videos_give_the_same_clips_and_the_same_latents_the_same_model(journey, tmp_path):
    folder = copy(journey, tmp_path)
    before = (folder / "dvc.lock").read_text(encoding="utf-8")
    run(folder, "dvc", "repro", "--force", "--single-item", "preprocess@kuka")
    run(folder, "dvc", "repro", "--force", "--single-item", "train@kuka-canvasmar")
    after = (folder / "dvc.lock").read_text(encoding="utf-8")
    wanted = ("preprocess@kuka", "train@kuka-canvasmar")
    assert outs(before, wanted) == outs(after, wanted)


def test_the_same_seed_gives_the_same_videos(journey, tmp_path):
    folder = copy(journey, tmp_path)
    before = (folder / "dvc.lock").read_text(encoding="utf-8")
    run(folder, "dvc", "repro", "--force", "--single-item", "simulate@kuka")
    after = (folder / "dvc.lock").read_text(encoding="utf-8")
    assert outs(before, ("simulate@kuka",)) == outs(after, ("simulate@kuka",))


def outs(lock: str, wanted: tuple[str, ...]) -> list[str]:
    import yaml

    stages = yaml.safe_load(lock)["stages"]
    return [
        out["md5"]
        for name in wanted
        for out in stages[name]["outs"]
        if out["path"].startswith("data/") and "/usage/" not in out["path"]
    ]


def test_predict_continues_a_video_of_ones_own(journey, tmp_path):
    folder = copy(journey, tmp_path)
    video = next((folder / "data" / "videos" / "kuka" / "test").glob("*.mp4"))
    own = folder / "my own vidéo.mp4"
    shutil.copy(video, own)
    run(folder, *CANVASMAR, "predict", str(own), "--row", "kuka-canvasmar", "--frames", "5")
    made = folder / "predictions" / "kuka-canvasmar"
    assert {path.suffix for path in made.iterdir()} == {".mp4", ".gif", ".png", ".json"}
    from components.video import video as videos

    frames = videos.read(made / "my own vidéo.mp4", (128, 128)).frames
    assert len(frames) == 10  # the last five of the video, and five predicted


def test_predict_says_what_is_wrong(journey, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    done = run(journey, *CANVASMAR, "predict", str(empty), "--row", "kuka-canvasmar", check=False)
    assert done.returncode == 2
    assert "empty" in done.stderr.splitlines()[-1]
    done = run(journey, *CANVASMAR, "predict", str(empty), "--row", "no-such-row", check=False)
    assert done.returncode == 2
    assert "no-such-row" in done.stderr.splitlines()[-1]


def test_a_model_of_another_vae_is_refused(journey, tmp_path, edit):
    folder = copy(journey, tmp_path)
    config = folder / "data" / "models" / "kuka-canvasmar" / "config.json"
    content = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps({**content, "autoencoder": "0123456789abcdef"}))
    done = run(folder, "dvc", "repro", "--single-item", "--force", "evaluate@kuka-canvasmar", check=False)
    assert done.returncode != 0
    assert "0123456789abcdef" in done.stderr + done.stdout


def test_a_vae_that_does_not_fit_the_clips_is_refused(journey, tmp_path, edit):
    folder = copy(journey, tmp_path)
    edit(folder, "autoencoders.kuka-vae.resolution", [64, 64])
    done = run(folder, "dvc", "repro", "train_vae@kuka-vae", check=False)
    assert done.returncode != 0
    assert "datasets.kuka.resolution is [32, 32]; make them equal" in done.stderr + done.stdout


def test_a_model_that_does_not_fit_the_latents_is_refused(journey, tmp_path, edit):
    folder = copy(journey, tmp_path)
    edit(folder, "models.canvas.latent", [8, 4, 4])
    done = run(folder, "dvc", "repro", "train@kuka-canvasmar", check=False)
    assert done.returncode != 0
    assert "gives latents of [channels, height, width] [4, 4, 4]; set it to [4, 4, 4]" in done.stderr + done.stdout


def test_weights_of_another_configuration_are_refused(journey, tmp_path):
    folder = copy(journey, tmp_path)
    models = folder / "data" / "models"
    other = models / "kuka-no-canvas" / "weights.safetensors"
    mine = models / "kuka-canvasmar" / "weights.safetensors"
    mine.unlink()
    shutil.copy(other, mine)
    video = next((folder / "data" / "videos" / "kuka" / "test").glob("*.mp4"))
    done = run(folder, *CANVASMAR, "predict", str(video), "--row", "kuka-canvasmar", check=False)
    assert done.returncode == 2
    assert "belongs to another configuration" in done.stderr


def test_real_recordings_become_clips(journey, tmp_path, edit):
    droid = ROOT.parent / "shared" / "data" / "droid"
    if not droid.is_dir():
        pytest.skip("the DROID recordings are not beside the project")
    folder = copy(journey, tmp_path)
    lab = sorted(path for path in droid.iterdir() if path.is_dir())[0]
    edit(folder, "datasets.kuka.path", str(lab))
    edit(folder, "datasets.kuka.split", {"kind": "hash", "val": 0.1, "test": 0.1})
    run(folder, "python", "-m", "pipeline.preprocess", "--row", "kuka", "--out", "clips")
    manifest = json.loads((folder / "clips" / "manifest.json").read_text())
    assert manifest["counts"]["train"] > 50
