"""A video model under labels and under captions, through the stages: from a csv beside the videos to a prediction."""

import contextlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from components.datasets.annotations import Annotations
from components.foundation.randomness import Stream
from components.sampling.rollout import rollout
from pipeline.commands.video_predictor import VideoPredictor
from tests.pipeline.conftest import CANVASMAR, run
from tests.tiny_text import write_qwen2

pytestmark = pytest.mark.faults
ROW = "worded"
MODEL = {
    "kind": "videomar", "latent": [4, 4, 4], "condition": {"kind": "label", "classes": ["few", "many"], "drop": 0.1},
    "decoder": {"width": 32, "heads": 2, "layers": 2, "norm_first": False, "extent": [16, 8, 8]},
    "head": {"width": 32, "layers": 1, "repeats": 2, "preconditioned": False},
    "mask": {"mean": 1.0, "std": 0.25, "low": 0.7},
}  # fmt: skip


@pytest.fixture(scope="module")
def worded(journey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with videos of its own, a label each, and one row that is trained under them."""
    folder = Path(shutil.copytree(journey, tmp_path_factory.mktemp("words") / "project", symlinks=True))
    shutil.copytree(folder / "data" / "videos" / "kuka", folder / "videos")
    names = sorted(path.relative_to(folder / "videos").as_posix() for path in (folder / "videos").rglob("*.mp4"))
    label(folder, names, "label", ("few", "many"))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["simulations"], params["ablations"] = {}, {}
    params["datasets"] = {"mine": params["datasets"]["kuka"] | {"path": "videos", "words": "words.csv"}}
    params["autoencoders"] = {"mine-vae": params["autoencoders"]["kuka-vae"] | {"dataset": "mine"}}
    params["models"]["words"] = MODEL
    params["samplers"]["words"] = params["samplers"]["no-canvas"] | {"temporal_scale": 2.0}
    chosen = {"dataset": "mine", "scored_on": "mine", "autoencoder": "mine-vae", "model": "words", "sampler": "words"}
    params["experiments"] = {ROW: params["experiments"]["kuka-no-canvas"] | chosen}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "dvc", "repro", f"evaluate@{ROW}")
    return folder


def label(folder: Path, names: list[str], kind: str, words: tuple[str, str]) -> None:
    lines = [f"{name},{words[index % 2]}" for index, name in enumerate(names)]
    (folder / "videos" / "words.csv").write_text("\n".join([f"video,{kind}", *lines]) + "\n")


def predicted(folder: Path, words: str) -> torch.Tensor:
    """Latents, in which a model that has barely learned shows what pixels would round away."""
    with contextlib.chdir(folder):  # an encoder's folder is named from there
        loaded = VideoPredictor.open(folder, ROW, "cpu")
        latents = torch.zeros(1, 1, *loaded.description.model.latent)
        frames = rollout(
            loaded.conditioned_on(Annotations([words], None)), latents, 2, Stream.of(0, (0,)), loaded.sampler
        )
        return torch.stack([frame.latent for frame in frames])


def command(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    return run(
        folder, *CANVASMAR, "predict", str(next((folder / "videos" / "test").glob("*.mp4"))),
        "--row", ROW, "--frames", "4", "--words", words, check=False,
    )  # fmt: skip


def test_labels_reach_the_clips_the_latents_the_training_and_the_prediction(worded):
    clips, latents = (
        (worded / "data" / place / "words.csv").read_text() for place in ("clips/mine", "latents/mine-vae")
    )
    assert clips == latents
    assert {"few", "many"} == {line.split(",")[2] for line in clips.splitlines()[1:]}
    assert len(list((worded / ".state" / "cache" / "conditions").glob("*/manifest.json"))) == 1
    assert torch.equal(predicted(worded, "few"), predicted(worded, "few"))
    assert not torch.equal(predicted(worded, "few"), predicted(worded, "many"))
    assert command(worded, "few").returncode == 0
    told = command(worded, "none")
    assert told.returncode == 2
    assert "unknown label 'none'; the classes are few, many" in told.stderr


def test_another_label_makes_everything_behind_it_stale(worded):
    before = (worded / "videos" / "words.csv").read_text()
    (worded / "videos" / "words.csv").write_text(before.replace(",few", ",many", 1))
    assert "preprocess@mine" in run(worded, "dvc", "status").stdout
    (worded / "videos" / "words.csv").write_text(before)
    assert "preprocess@mine" not in run(worded, "dvc", "status").stdout


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="captions need the extra text")
def test_a_model_under_captions_is_trained_on_what_the_encoder_makes_of_them(worded, edit):
    write_qwen2(worded / "qwen2")
    text = {"kind": "text", "encoder": "qwen2", "tokens": 6, "numbers": 16, "drop": 0.1}
    edit(worded, "models.words.condition", text)
    run(worded, "dvc", "repro", "--single-item", f"train@{ROW}")
    assert len(list((worded / ".state" / "cache" / "conditions").glob("*/manifest.json"))) == 2
    assert not torch.equal(predicted(worded, "few things"), predicted(worded, "many things"))
    edit(worded, "models.words.condition", text | {"numbers": 8})
    told = run(worded, "python", "-m", "pipeline.train", "--row", ROW, "--clips", "data/clips/mine",
               "--latents", "data/latents/mine-vae", "--autoencoder", "data/autoencoders/mine-vae",
               "--start", "presets/random-weights", "--out", "x", check=False)  # fmt: skip
    assert told.returncode == 2
    assert "qwen2 gives 16 channels per token, but model.condition.numbers is 8; set it to 16" in told.stderr
