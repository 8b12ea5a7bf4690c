"""The search itself with a model that has learned nothing: what it tries, what it writes, and what its winner is."""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.datasets import clips as clip_files
from components.datasets import latents as latent_files
from components.datasets import shards
from components.foundation.config import parse
from components.foundation.errors import InputError
from components.foundation.files import write_text
from components.metrics.distances import features
from components.metrics.distances.i3d import I3D
from components.models import latent_training
from components.models.latent_training import RANDOM_WEIGHTS, TrainingSource
from components.reporting.results import read_sweep
from components.sampling.frame import SamplerConfig
from components.telemetry import tracking
from components.training.loop import Worker
from pipeline import ablate, sweep
from pipeline.runtime import cluster, stage
from pipeline.tuning import search_results, training_trials
from pipeline.tuning.training_search import Candidate
from pipeline.tuning.trials import Report
from tests.pipeline.conftest import ROOT
from tests.pipeline.parts import tables, write_models

VIDEOS = 6


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, latents, a VAE, a model and I3D, none of which was trained."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    write_clips(folder / "clips")
    identity = write_models(folder, 11)
    moments = {split: torch.randn(4, 6, 8, 4, 4) for split in ("train", "val")}
    written = [latent_files.write_shard(folder / "latents", split, 0, part) for split, part in moments.items()]
    key = latent_files.LatentKey(autoencoder=identity, clips="c", settings={})
    latent_files.finish(folder / "latents", written, key, {})
    (folder / "weights").mkdir()
    network = I3D()
    for weight in network.parameters():
        if weight.dim() == 5:
            torch.nn.init.kaiming_normal_(weight)  # so that other clips have other features
    save_file(network.state_dict(), folder / "weights" / features.NETWORK)
    return folder


def write_clips(folder: Path, split: shards.Split = "val") -> None:
    written = [shards.write_rows(folder, split, 0, torch.randint(0, 255, (VIDEOS, 11, 3, 32, 32), dtype=torch.uint8))]
    lines = [",".join(clip_files.COLUMNS)] + [f"{index},{split},0,{index},{index}.mp4,0" for index in range(VIDEOS)]
    index = write_text(folder / clip_files.INDEX, "\n".join(lines) + "\n")
    manifest = clip_files.ClipsManifest(
        shards=shards.ordered(written), counts=shards.counts(written), files={clip_files.INDEX: index}, frames=11,
        size=(32, 32), channels="rgb", cut={},
    )  # fmt: skip
    shards.write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def ray_here(parts: Path) -> Iterator[None]:
    """One cluster for all searches of this file."""
    import ray

    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False,
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_here: None) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "connect", lambda root: nullcontext())
    return tmp_path


def search(
    here: Path, parts: Path, name: str, change: dict[str, Any], fresh: Any = None
) -> tuple[dict[str, float], Path, str]:
    """Runs the stage with a changed search; its metrics, its folder and its run."""
    content = tables()
    base = {"objectives": ["fvd", "milliseconds_per_frame"], "clips": 3, "unseen": 3, "concurrent": 2, "seed": 0}
    content["searches"]["guidance"] = (content["searches"]["guidance"] | base if fresh is None else fresh) | change
    params = stage.resolve(sweep.Params, content, "experiments", "kuka-canvasmar")
    out = here / f".{name}.partial"  # as the stage names its folder until it ends
    out.mkdir()
    with tracking.run("sweep@test", root=here, tags={}, parameters={}) as log:
        folders = {key: parts / key for key in ("clips", "model", "weights", "latents")}
        folders |= {"autoencoder": parts / "vae", "start": RANDOM_WEIGHTS}
        metrics = sweep.main(params, **folders, out=out, log=log)
    return metrics, out, log.id


@pytest.mark.faults
def test_optuna_over_ranges_gives_a_front_a_winner_and_the_same_table_again(here: Path, parts: Path) -> None:
    space = {"canvas_scale": {"uniform": [1.0, 3.0]}, "flow_steps": {"integers": [1, 3]}, "sets": {"choices": [2, 99]}}
    change = {"space": space, "algorithm": "optuna", "trials": 6}
    metrics, out, run = search(here, parts, "first", change)
    table = pd.read_csv(out / "trials.csv")
    assert len(table) == metrics["trials"] == 6
    front = pd.read_csv(out / "front.csv")
    assert set(front["trial"]) == set(table[table["front"]]["trial"])
    assert table["fvd"].nunique() > 1
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    best = json.loads((out / "best.json").read_text())
    assert best["objectives"]["fvd"] == table["fvd"].min() == metrics["fvd_best"]
    assert parse(SamplerConfig, best["sampler"], where="best.json").canvas_scale == table["canvas_scale"][best["trial"]]
    assert best["trial"] in set(front["trial"])
    assert {"fvd_unseen", "fvd_unseen_first", "fvd_unseen_difference"} <= set(best["unseen"])
    failed = table[table["sets"] == 99]
    assert set(failed["status"]) <= {"failed"}
    assert metrics["trials_failed"] == len(failed)
    assert children(here, run) == ["FAILED"] * len(failed) + ["FINISHED"] * (6 - len(failed))
    assert not list((here / ".state" / "cache" / "search").iterdir())
    shutil.rmtree(here / ".state")
    _, again, _ = search(here, parts, "second", change)
    measured = ["milliseconds_per_frame", "front", "error"]
    pd.testing.assert_frame_equal(
        table.drop(columns=measured), pd.read_csv(again / "trials.csv").drop(columns=measured)
    )


@pytest.mark.parametrize(("work", "winner"), [((2.0, 2.0), 0), ((2.0, 1.0), 1)])
def test_of_equal_scores_the_least_work_wins_then_the_first_trial_and_never_the_clock(
    tmp_path: Path, work: tuple[float, float], winner: int
) -> None:
    params = stage.resolve(sweep.Params, tables(), "experiments", "kuka-no-canvas")
    rows = [
        {"trial": trial, "temporal_scale": scale, "fvd": 9.0, "milliseconds_per_frame": time, "status": "finished",
         "gigaflops_per_frame": work[trial]}
        for trial, (scale, time) in enumerate([(1.2, 2.0), (1.5, 1.0)])
    ]  # fmt: skip
    table, best = search_results.write_tables(rows, params.search, tmp_path)
    assert best["trial"] == winner
    assert table["front"].tolist() == [False, True]


@pytest.mark.faults
def test_an_ablation_samples_both_models_with_equal_draws(here: Path, parts: Path) -> None:
    write_clips(here / "clips", "test")
    content = tables()
    params = stage.resolve(ablate.Params, content, "ablations", "sets")
    (here / "out").mkdir()
    with tracking.run("ablate@sets", root=here, tags={}, parameters={}) as log:
        metrics = ablate.main(
            params, clips=here / "clips", autoencoder=parts / "vae", experiment=parts / "model",
            baseline=parts / "model", weights=parts / "weights", out=here / "out", log=log,
        )  # fmt: skip
    table = pd.read_csv(here / "out" / "table.csv")
    assert metrics["points"] == len(table) == 4
    assert set(table["status"]) == {"finished"}
    assert table["experiment"].tolist() == ["kuka-no-canvas"] * 2 + ["kuka-canvasmar"] * 2
    assert table["difference"].tolist()[2:] == [0.0, 0.0]  # the same weights under two names
    assert table["fvd"][0] != table["fvd"][1]
    assert not list((here / ".state" / "cache" / "ablation").iterdir())
    assert children(here, log.id) == ["FINISHED"] * 4


def children(here: Path, run: str) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking.uri(here))
    return sorted(one.info.status for one in client.search_runs(["1"], f"tags.mlflow.parentRunId = '{run}'"))


TRAINING: dict[str, Any] = {
    "kind": "training", "algorithm": "random", "trials": 3, "objectives": ["validation_flow"], "steps": 4,
    "stopper": {"kind": "asha", "grace": 2, "factor": 3}, "report_every": 2, "concurrent": 1, "seed": 0,
    "space": {
        "recipe": {"learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "model": {"canvas": {"canvas_weight": {"choices": [0.1, 1.0]}, "frame_noise": {"choices": [[0.1, 0.5]]}}},
    },
}  # fmt: skip


@pytest.mark.faults
def test_a_search_over_training_scores_short_trainings_and_keeps_the_sampler(here: Path, parts: Path) -> None:
    metrics, out, run = search(here, parts, "training", {}, TRAINING)
    table = pd.read_csv(out / "trials.csv")
    assert metrics["trials"] == len(table) == 3
    assert set(table["step"]) <= {2, 4}
    assert set(table[table["step"] == 2]["status"]) <= {"stopped"}
    best = json.loads((out / "best.json").read_text())
    assert best["setting"].keys() == {"recipe.learning_rate", "model.canvas.canvas_weight", "model.canvas.frame_noise"}
    assert best["objectives"]["validation_flow"] == table[table["status"] == "finished"]["validation_flow"].min()
    assert parse(SamplerConfig, best["sampler"], where="best.json").flow_steps == 2
    assert read_sweep(out).objective == "validation_flow"
    assert len(children(here, run)) == 3


@pytest.mark.faults
def test_a_population_of_trainings_copies_weights_and_leaves_rays_folder(here: Path, parts: Path) -> None:
    population = {"kind": "pbt", "perturbation_interval": 2, "quantile_fraction": 0.5, "resample_probability": 0.0}
    space = {"recipe": {"learning_rate": {"loguniform": [1e-4, 1e-2]}}}
    change = {"stopper": population, "space": space, "steps": 6, "keep": True}
    metrics, out, run = search(here, parts, "population", change, TRAINING)
    table = pd.read_csv(out / "trials.csv")
    assert metrics["trials"] == len(table) == 3
    assert table["step"].tolist() == [6, 6, 6]
    assert set(table["status"]) == {"finished"}
    assert table["recipe.learning_rate"].between(1e-4, 1e-2).all()
    kept = here / "data" / "ray_results" / "population"
    assert (kept / "pbt_global.txt").read_text().count("recipe.learning_rate") > 0
    assert sorted(path.name for path in kept.glob("trial-*")) == ["trial-0", "trial-1", "trial-2"]
    assert len(children(here, run)) > 3  # each part of a trial, with its own settings


def test_a_training_search_from_other_weights_does_not_resume(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tables()
    content["searches"]["guidance"] = TRAINING
    params = stage.resolve(sweep.Params, content, "experiments", "kuka-canvasmar")
    keys = []

    def recorded(trial: Any, suggester: Any, shared: Any, search: Any, metrics: Any, inputs: Any, *_: Any) -> None:
        keys.append((shared.start and shared.start.path, inputs["start"]))
        raise InputError("recorded")

    monkeypatch.setattr(sweep, "run_trials", recorded)
    write_text(tmp_path / "base" / "weights.safetensors", "1")
    log, bases = SimpleNamespace(handle=None), [tmp_path / "base", parts / "model"]
    for start in (RANDOM_WEIGHTS, *bases):
        with pytest.raises(InputError, match="recorded"):
            sweep.search_training(params, params.search, parts / "latents", parts / "vae", start, {}, tmp_path, log)
    assert [path for path, _ in keys] == [None, *(base / "weights.safetensors" for base in bases)]
    assert keys[0][1] is None
    assert len({key for _, key in keys}) == 3


def test_a_trial_goes_on_from_its_state_with_equal_losses_and_with_its_own_rate(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tables()
    content["searches"]["guidance"] = TRAINING
    params = stage.resolve(sweep.Params, content, "experiments", "kuka-canvasmar")
    source = TrainingSource(parts / "latents", None)
    current = Candidate(model=params.model, recipe=params.recipe)
    shared = training_trials.TrialInputs(current, params.search, source, None, SimpleNamespace(child=no_run))

    measured = SimpleNamespace(use=lambda: SimpleNamespace(metrics=dict))
    monkeypatch.setattr(cluster, "measure", lambda: measured)

    def losses(setting: dict[str, Any], state: Any) -> list[Report]:
        monkeypatch.setattr(training_trials, "saved_state", lambda: state)
        reports = []
        for report in training_trials.trial(0, setting, shared):
            saved = copy.deepcopy(report.state()) if report.state else None
            reports.append(Report(report.metrics, lambda saved=saved: saved))
        return reports

    setting = {"recipe.learning_rate": 1e-2}
    whole = losses(setting, None)
    assert [report.metrics["step"] for report in whole] == [2, 4]
    (rest,) = losses(setting, whole[0].state())
    assert rest.metrics == whole[1].metrics
    (copied,) = losses({"recipe.learning_rate": 1e-4}, whole[0].state())
    assert copied.metrics != whole[1].metrics
    assert copied.state()["schedule"]["base_lrs"] == [1e-4] * len(copied.state()["schedule"]["base_lrs"])


def test_trials_with_other_noise_are_validated_with_equal_noise(parts: Path) -> None:
    content = tables()
    params = stage.resolve(sweep.Params, content, "experiments", "kuka-canvasmar")
    source, worker = TrainingSource(parts / "latents", None), Worker(0, 1, torch.device("cpu"), nn.Identity())
    losses = []
    for equal in (True, False):
        for noise in ((0.0, 0.0), (0.5, 0.9)):
            canvas = params.model.canvas.model_copy(update={"frame_noise": noise, "canvas_noise": noise})
            model = params.model.model_copy(update={"canvas": canvas})
            (phase,) = params.recipe.resolved_phases()
            training, data = latent_training.make(model, phase, source, None, None, worker)
            if equal:
                training_trials.validate_with_noise_of(training, params.model)
            losses.append(training.validate(data))
            assert training.model.canvas.config.frame_noise == noise
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


@contextmanager
def no_run(*_: Any) -> Iterator[Any]:
    yield SimpleNamespace(metrics=lambda *_: None)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"recipe": {"learning": {"choices": [1]}}}, "has no setting recipe.learning; choose one of"),
        ({"model": {"canvas": {"canvas_weight": {"choices": [1.0]}}}}, "use validation_flow"),
        ({"recipe": {"batch": {"choices": [0]}}}, "recipe.batch is 0"),
        ({"recipe": {"batch": {"choices": [2.5]}}}, "recipe.batch is 2.5"),
        ({}, "the search space is empty"),
    ],
)
def test_a_training_that_cannot_be_searched_is_told_before_any_trial(
    space: Any, words: str, here: Path, parts: Path
) -> None:
    with pytest.raises(InputError) as caught:
        search(here, parts, "bad", {"space": space, "objectives": ["validation_loss"]}, TRAINING)
    assert words in str(caught.value)


def test_an_objective_that_the_training_does_not_report_raises_before_any_trial(here: Path, parts: Path) -> None:
    change = {"space": {"model": {"canvas": {"choices": [None]}}}, "objectives": ["validation_canvas"]}
    with pytest.raises(InputError, match="does not report validation_canvas; choose objectives from validation_loss"):
        search(here, parts, "unreported", change, TRAINING)
