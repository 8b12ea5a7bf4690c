"""Phases of a training, and the weights that it begins with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from components.datasets.latents import Latents
from components.foundation import checkpoint
from components.foundation.config import parse
from components.foundation.errors import InputError
from components.foundation.settings import presets
from components.models.latent_training import RANDOM_WEIGHTS
from components.training.loop import Worker
from components.training.optimizer import RecipeConfig
from pipeline import train
from pipeline.train import InitialWeights, Params, TrainingSource
from tests.behaviour.families import KINDS
from tests.pipeline.conftest import ROOT, run, tiny
from tests.pipeline.untrained import write_latents

NOTHING = ("batch", "learning_rate", "frames", "resolution", "frame_noise", "canvas_noise")
PHASE: dict[str, Any] = {**dict.fromkeys(NOTHING), "steps": 4}
TABLES = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
ALONE = Worker(0, 1, torch.device("cpu"), nn.Identity())


def moments(folder: Path) -> Path:
    write_latents(folder, folder.parent / "vae", clips=8)
    return folder


def params(row: str = "canvas", **recipe: Any) -> Params:
    content = {"model": TABLES["models"][row], "recipe": TABLES["recipes"]["model"] | recipe}
    return parse(Params, content, where="here")


def test_a_phase_trains_on_the_first_frames_of_each_clip_and_the_next_one_on_all(tmp_path: Path) -> None:
    folder = moments(tmp_path / "latents")
    chosen = params(phases=[PHASE | {"frames": 3, "batch": 4}, PHASE])
    shapes = []
    for phase in chosen.recipe.resolved_phases():
        _, data = train.make(chosen.model, phase, TrainingSource(folder, None), None, None, ALONE)
        steps = data.batches(0)
        shapes.append(tuple(next(steps)[1].shape))
        steps.close()
    assert shapes == [(4, 3, 4, 4, 4), (2, 5, 4, 4, 4)]


def test_a_phase_has_noise_of_its_own() -> None:
    chosen = params(phases=[PHASE | {"frame_noise": [0.0, 0.1]}, PHASE])
    first, second = (
        train.phase_model(chosen.model, phase, (4, 4, 4)).canvas for phase in chosen.recipe.resolved_phases()
    )
    assert (first.frame_noise, first.canvas_noise) == ((0.0, 0.1), (0.0, 0.3))
    assert second == chosen.model.canvas


def test_noise_for_a_model_without_a_canvas_is_refused() -> None:
    chosen = params("no-canvas", phases=[PHASE | {"frame_noise": [0.0, 0.1]}])
    with pytest.raises(InputError, match="phase 1 of 1 sets frame_noise, but the model has no canvas"):
        train.phase_model(chosen.model, chosen.recipe.resolved_phases()[0], (4, 4, 4))


def test_frames_that_clips_do_not_have_are_refused(tmp_path: Path) -> None:
    folder = moments(tmp_path / "latents")
    chosen = params(phases=[PHASE, PHASE | {"frames": 6}])
    with pytest.raises(InputError, match=r"phase 2 of 2 uses 6 latent frames, but the clips in .* have 5"):
        train.check(chosen.model, chosen.recipe, Latents.open(folder, "train", None), folder)


def test_a_training_begins_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    folder, chosen = moments(tmp_path / "latents"), params()
    (phase,) = chosen.recipe.resolved_phases()
    torch.manual_seed(5)
    given = chosen.model.build().state_dict()
    checkpoint.save_weights(tmp_path / "given.safetensors", given)
    training, _ = train.make(
        chosen.model,
        phase,
        TrainingSource(folder, None),
        InitialWeights(tmp_path / "given.safetensors", ()),
        None,
        ALONE,
    )
    assert all(torch.equal(value, given[name]) for name, value in training.model.state_dict().items())
    assert all(torch.equal(value, given[name]) for name, value in training.weights().items())


def test_other_weights_to_begin_with_are_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, chosen = moments(tmp_path / "latents"), params()
    (phase,) = chosen.recipe.resolved_phases()
    jobs = [train.job_of(chosen.model, phase, TrainingSource(folder, None), None)]
    for seed in (1, 2):
        torch.manual_seed(seed)
        path = tmp_path / str(seed) / checkpoint.WEIGHTS
        checkpoint.save_weights(path, chosen.model.build().state_dict())
        jobs.append(train.job_of(chosen.model, phase, TrainingSource(folder, None), InitialWeights(path, ())))
    entries = [job.entry() for job in jobs]
    assert len({entry.path for entry in entries}) == 3
    for entry in entries:
        entry.release()
    with pytest.raises(InputError, match="does not exist; run `dvc repro`"):
        train.job_of(
            chosen.model,
            phase,
            TrainingSource(folder, None),
            InitialWeights(tmp_path / "nowhere" / checkpoint.WEIGHTS, ()),
        )


def test_a_vae_has_no_phases() -> None:
    from pipeline import train_vae

    chosen = parse(
        train_vae.Params,
        {
            "autoencoder": TABLES["autoencoders"]["kuka-vae"],
            "recipe": TABLES["recipes"]["vae"] | {"phases": [PHASE]},
        },
        where="here",
    )
    with pytest.raises(InputError, match="recipe vae has new_weights or phases"):
        train_vae.check(chosen.autoencoder, chosen.recipe, None)


@pytest.mark.faults
def test_at_a_rate_of_almost_zero_phases_hand_the_given_weights_on_to_the_end(project: Path, edit: Any) -> None:
    moments(project / "latents")
    tables = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    chosen = parse(Params, {"model": tables["models"]["canvas"], "recipe": tables["recipes"]["model"]}, where="here")
    given = chosen.model.build().state_dict()
    checkpoint.save_weights(project / "base" / checkpoint.WEIGHTS, given)
    for key, value in {
        "learning_rate": 1e-30,
        "log_every": 2,
        "phases": [PHASE | {"frames": 3}, PHASE],
    }.items():
        edit(project, f"recipes.model.{key}", value)
    words = ("python", "-m", "pipeline.train", "--row", "kuka-canvasmar", "--clips", "clips/kuka",
             "--latents", "latents", "--autoencoder", "vae", "--start", "base", "--out", "out")  # fmt: skip
    said = run(project, *words).stdout
    assert "train the video model phase 1 of 2: 4/4 steps" in said
    assert "train the video model phase 2 of 2: 4/4 steps" in said
    weights = load_file(project / "out" / "weights.safetensors")
    assert all(torch.allclose(value, given[name], rtol=0, atol=1e-20) for name, value in weights.items())
    history = (project / "out" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert [int(line.split(",")[0]) for line in history[1:]] == [2, 3, 4, 6, 7, 8]
    assert not list((project / ".state" / "cache" / "training").glob("*/checkpoint_[0-9]*"))


@pytest.mark.faults
def test_a_phase_at_half_the_resolution_goes_before_one_at_the_clips_own(
    journey: Path, tmp_path: Path, edit: Any
) -> None:
    project = Path(shutil.copytree(journey, tmp_path / "copy", symlinks=True))
    edit(project, "recipes.model.phases", [PHASE | {"resolution": [16, 16]}, PHASE])
    said = run(project, "dvc", "repro", "train@kuka-canvasmar", "train@kuka-no-canvas").stdout
    encoded = said.count("encoding the clips at 16 x 16 pixels for a training phase")
    assert encoded == 1  # both rows read the same moments
    for row in ("kuka-canvasmar", "kuka-no-canvas"):
        assert f"train@{row}: done" in said
        description = project / "data" / "models" / row / checkpoint.DESCRIPTION
        assert json.loads(description.read_text(encoding="utf-8"))["model"]["latent"] == [4, 4, 4]
    (small,) = (project / ".state" / "cache" / "resized-moments").glob("*/manifest.json")
    assert Latents.open(small.parent, "train", None).shape[2:] == (2, 2)
    edit(project, "recipes.model.phases", [PHASE | {"resolution": [20, 16]}, PHASE])
    told = run(project, "dvc", "repro", "train@kuka-canvasmar", check=False)
    assert "phase 1 of 2 has resolution [20, 16], but a latent pixel covers [8, 8] pixels" in told.stdout + told.stderr


@pytest.mark.parametrize("model", [*TABLES["models"].values(), *KINDS.values()], ids=[*TABLES["models"], *KINDS])
def test_a_model_of_any_kind_has_the_same_weights_at_another_resolution(model: dict[str, Any]) -> None:
    chosen = parse(Params, {"model": model, "recipe": TABLES["recipes"]["model"]}, where="here")
    (phase,) = chosen.recipe.resolved_phases()
    small, large = (
        {
            name: value.shape
            for name, value in train.phase_model(chosen.model, phase, latent).build().state_dict().items()
        }
        for latent in ((4, 2, 2), (4, 6, 6))
    )
    assert small == large


def test_a_folder_of_weights_is_a_start_and_the_folder_of_random_weights_is_none(tmp_path: Path) -> None:
    chosen = params(new_weights=["group."]).recipe
    assert isinstance(chosen, RecipeConfig)
    assert InitialWeights.of(RANDOM_WEIGHTS, chosen.new_weights) is None
    assert (ROOT / RANDOM_WEIGHTS).is_dir()
    assert InitialWeights.of(tmp_path, chosen.new_weights) == InitialWeights(tmp_path / checkpoint.WEIGHTS, ("group.",))
