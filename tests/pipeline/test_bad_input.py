"""What a user can get wrong: one sentence, status 2, no traceback, and what was there stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.foundation.config import dump_yaml, read_yaml
from components.foundation.settings import presets
from pipeline import preprocess, simulate, train
from pipeline.checks import problems
from pipeline.runtime import stage
from tests.pipeline.conftest import ROOT, tiny
from tests.pipeline.untrained import write_latents

CASES = [
    ("models.canvas.widht", 1, "train", "unknown key model.widht"),
    ("models.canvas.drop", "much", "train", "model.drop is 'much'"),
    ("models.canvas.drop", 0.5, "train", "model.drop"),
    ("recipes.model.workers", 3, "train", "workers"),
    ("recipes.model.steps", "10", "train", "recipe.steps is '10'"),
    ("experiments.kuka-canvasmar.model", "none", "train", "models has no entry 'none'"),
    ("experiments.kuka-canvasmar.color", "red", "train", "unknown key color"),
    ("simulations.kuka.kind", "cartoon", "simulate", "kuka"),
    ("simulations.kuka.frames", 0, "simulate", "frames"),
    ("datasets.kuka.path", "nowhere", "preprocess", "nowhere does not exist"),
    ("datasets.kuka.path", "empty", "preprocess", "holds no videos"),
    ("datasets.kuka.frames", 40, "preprocess", "no clip is left for the split train"),
    ("datasets.kuka.split", {"kind": "hash", "val": 0.8, "test": 0.4}, "preprocess", "leave nothing to train"),
    ("sampler", {}, "train", "unknown table sampler"),
]
STAGES = {
    "train": (
        train.main,
        "experiments",
        [
            "--row",
            "kuka-canvasmar",
            "--clips",
            "clips/kuka",
            "--latents",
            "there",
            "--autoencoder",
            "vae",
            "--start",
            "empty",
        ],
    ),
    "simulate": (simulate.main, "simulations", ["--row", "kuka"]),
    "preprocess": (preprocess.main, "datasets", ["--row", "kuka"]),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny parameters, three sound videos, and something where the outputs go."""
    import yaml

    params = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    params["datasets"]["kuka"] |= {"path": "videos", "split": {"kind": "hash", "val": 0.0, "test": 0.0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for name in ("empty", "there", "vae", "videos", "clips/kuka"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").touch()
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path / "videos")
    return tmp_path


def write_videos(folder: Path) -> None:
    import torch

    from components.video import video

    for index in range(3):
        video.write(folder / f"{index}.mp4", torch.randint(0, 255, (18, 3, 32, 32), dtype=torch.uint8), 8)


def attempt(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    main, rows, words = STAGES[name]
    monkeypatch.setattr("sys.argv", [name, *words, "--out", "out"])
    with pytest.raises(SystemExit) as left:
        stage.run(main, rows=rows)
    return left.value.code, capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize(("path", "value", "name", "words"), CASES, ids=[f"{case[0]}={case[1]}" for case in CASES])
def test_a_mistake_in_params_is_one_sentence(
    path: str,
    value: object,
    name: str,
    words: str,
    here: Path,
    edit: Callable[[Path, str, object], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "train" and path.startswith(("models.canvas.drop", "recipes.model.workers")) and value != "much":
        write_latents(here / "there", here / "vae", clips=4, frames=9)
    edit(here, path, value)
    status, told = attempt(name, monkeypatch, capsys)
    assert status == 2
    sentences = [line for line in told if line.startswith("error: ")]
    assert len(sentences) == 1
    assert words in sentences[0]
    assert "Traceback" not in "\n".join(told)
    assert (here / "out" / "before").exists()


def test_bad_videos_are_reported_and_the_rest_goes_on(here, edit, monkeypatch, capsys):
    videos = here / "videos"
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("no video")
    sound = (videos / "0.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(sound[: len(sound) // 3])
    (videos / "locked.mp4").symlink_to("/proc/self/mem")  # which not even root may read from its beginning
    edit(here, "datasets.kuka.max_rejected", 0.9)
    main, rows, words = STAGES["preprocess"]
    monkeypatch.setattr("sys.argv", ["preprocess", *words, "--out", "out"])
    stage.run(main, rows=rows)
    import json

    told = json.loads((here / "out" / "rejected.json").read_text())
    assert {entry["video"] for entry in told["rejected"]} == {"empty.mp4", "text.mp4", "cut.mp4", "locked.mp4"}
    edit(here, "datasets.kuka.max_rejected", 0.1)
    status, lines = attempt("preprocess", monkeypatch, capsys)
    assert status == 2
    assert "4 of 7 videos are rejected" in lines[-1]


def test_missing_input_says_which_stage_to_run(here, monkeypatch, capsys):
    shutil.rmtree(here / "there")
    status, told = attempt("train", monkeypatch, capsys)
    assert status == 2
    assert told == ["error: train@kuka-canvasmar: --latents there does not exist; run `dvc repro` to make it"]


@pytest.mark.parametrize("name", ["a b", "a.b", "64", "-a"])
def test_a_name_that_is_not_usable_is_refused_before_anything_runs(name, here, monkeypatch, capsys):
    params = read_yaml(here / "params.yaml")
    params["samplers"][name] = params["samplers"]["default"]
    (here / "params.yaml").write_text(dump_yaml(params), encoding="utf-8")
    status, told = attempt("simulate", monkeypatch, capsys)
    assert status == 2
    (sentence,) = told
    assert sentence.startswith(f"error: params.yaml: the name {name!r} in samplers is invalid; use a letter")


def test_a_key_that_is_written_twice_is_refused_before_anything_runs(here, monkeypatch, capsys):
    with (here / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("prices: null\nprices: null\n")
    status, told = attempt("simulate", monkeypatch, capsys)
    assert status == 2
    assert "params.yaml has a key twice in one table (line " in told[0]
    assert 'found duplicate key "prices"' in told[0]


def test_a_stage_refuses_a_row_that_a_later_stage_could_not_run(here, edit, monkeypatch, capsys):
    edit(here, "datasets.kuka.path", "data/videos/kuka")  # of the simulation, so the clips are known before
    edit(here, "datasets.kuka.split", {"kind": "named"})
    edit(here, "protocols.kuka.clips", 500)
    main, rows, words = STAGES["simulate"]
    monkeypatch.setattr("sys.argv", ["simulate", *words, "--out", "out"])
    with pytest.raises(SystemExit) as left:
        stage.run(main, rows=rows, check=problems.before_stage)
    assert left.value.code == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert (
        "protocols.kuka.clips is 500, but the split test of datasets.kuka has 8 clips; set it to at most 8" in sentence
    )
    assert (here / "out" / "before").exists()
    assert not (here / "mlruns").exists()  # not even a run was started
