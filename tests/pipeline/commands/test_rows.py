"""A row that is trained comes first, then the weights that come with the code; what predicts on a fresh clone."""

import json
import shutil

import pytest
import torch

from components.datasets.clips import ClipsManifest
from components.datasets.shards import write_manifest
from components.foundation.errors import InputError
from components.video import video
from pipeline.commands import predict
from pipeline.commands.prediction import inputs, rows
from pipeline.commands.video_predictor import VideoPredictor
from tests.pipeline.commands.test_predict import options
from tests.pipeline.untrained import build

ROW = "kuka-canvasmar"


@pytest.fixture
def clone(tmp_path):
    """A folder with shipped weights of one row, and nothing trained."""
    data, place = build(tmp_path / "project") / "data", tmp_path / "clone" / "pretrained" / ROW
    shutil.copytree(data / "models" / ROW, place / rows.MODEL)
    shutil.copytree(data / "autoencoders" / "kuka-vae", place / rows.AUTOENCODER)
    sampler = json.loads((data / "searches" / ROW / "best.json").read_text())["sampler"]
    (place / rows.SETTINGS).write_text(json.dumps({"sampler": sampler, "fps": 4.0, "surprise": 1000.0}))
    shutil.copy(tmp_path / "project" / "videos" / "one.mp4", place / rows.EXAMPLE)
    return tmp_path / "clone"


def test_shipped_weights_are_used_until_the_row_is_trained(clone, capsys):
    assert (rows.trained(clone), rows.shipped(clone)) == ([], [ROW])
    found = rows.find(clone, ROW)
    assert found.shipped
    assert found.notice == f"{ROW} is not trained here, so the weights in {clone / 'pretrained' / ROW} are used"
    predict.run(options(clone, video=None, start=None), clone)
    assert f"predict: {found.notice}" in capsys.readouterr().out
    assert (clone / "predictions" / ROW / "example-panels.mp4").is_file()
    with pytest.raises(InputError, match=f"trained rows: none; rows with shipped weights: {ROW}; choose one"):
        rows.find(clone, "other")
    shutil.copytree(clone.parent / "project" / "data", clone / "data")
    found = rows.find(clone, ROW)
    assert (found.shipped, found.notice, found.model) == (False, None, clone / "data" / "models" / ROW)


def test_a_video_is_converted_to_the_rate_of_the_training_clips(clone):
    file = clone / "pretrained" / ROW / rows.EXAMPLE
    predictor = VideoPredictor.open(clone, ROW, "cpu")
    whole = video.read(file, (32, 32)).frames  # 20 frames, 8 a second
    found = inputs.read(file, (32, 32), predictor.fps, context=3)
    assert torch.equal(found.context, whole[[15, 17, 19]])
    assert "8 to 4 frames a second, context: the last 3 frames, 1.88 to 2.38 s" in found.account
    found = inputs.read(file, (32, 32), predictor.fps, start=0.5, context=2, frames=2)
    assert torch.equal(found.context, whole[[4, 6]])
    assert torch.equal(found.truth, whole[[8, 10]])
    found = inputs.read(file, (32, 32), predictor.fps, context=2, every_picture=True)
    assert torch.equal(found.context, whole[-2:])
    assert "all 8 frames a second, though the model was trained at 4" in found.account


@pytest.mark.parametrize(
    ("fps", "rates", "rate"),
    [
        (12.0, {"30": 2, "25": 1}, 6.0),
        (None, {"30": 2}, 15.0),
        (None, {"30": 2, "25": 1}, None),
        (None, {"variable": 1}, None),
    ],
)
def test_the_rate_of_the_training_is_that_of_the_clips(clone, fps, rates, rate):
    folder = clone / "data" / "clips" / "mine"
    folder.mkdir(parents=True)
    manifest = ClipsManifest(
        shards=(), counts={}, files={}, frames=5, size=(32, 32), channels="rgb", cut={"fps": fps, "stride": 2}
    )
    write_manifest(folder, manifest)
    (folder / "rejected.json").write_text(json.dumps({"rates": rates}))
    assert rows.training_rate(clone / "data", manifest.hash) == rate
    assert rows.training_rate(clone / "data", "others") is None
