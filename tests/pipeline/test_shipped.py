"""The weights in pretrained/ are those of the default, and predict their example."""

import pytest
import torch

from components.datasets import actions
from components.foundation import checkpoint, config
from components.foundation.settings import presets
from components.models.serialization import ModelDescription
from pipeline.commands.prediction import inputs, rows
from pipeline.commands.video_predictor import VideoPredictor
from tests.pipeline.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not rows.shipped(ROOT), reason="pretrained/ has no weights; `python -m deploy.pretrained` writes them"
)


def test_the_shipped_weights_predict_their_example_better_than_copying(tmp_path):
    """With the commands, as the default's protocol does; and only what is unlike the training is called so."""
    row = "push-canvasmar"
    (tmp_path / rows.SHIPPED).symlink_to(ROOT / rows.SHIPPED)  # a clone in which nothing is trained
    file, commands = rows.example(tmp_path, row)
    assert commands is not None
    predictor = VideoPredictor.open(tmp_path, row, "cpu")
    read = inputs.read(file, predictor.size, predictor.fps, start=0.0, frames=16)
    table = actions.read(commands).videos[file.name]
    steps = predictor.stream(predictor.prepare(read.context), frames=16, actions=table)
    made = torch.cat([step.frame for step in steps])
    copied = read.context[-1:].expand_as(read.truth)
    assert psnr(made, read.truth) > psnr(copied, read.truth) + 4
    assert predictor.unlike(predictor.prepare(read.context)) is None
    assert "looks unlike" in predictor.unlike(predictor.prepare(torch.zeros_like(read.context)))


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * (((one.double() - other.double()) / 255).square().mean()).log10())


def test_the_shipped_model_is_that_of_the_default():
    """If this fails after a change of the default: `make repro`, then `python -m deploy.pretrained`."""
    default = presets.read(ROOT / "presets" / "default.yaml")
    for row in rows.shipped(ROOT):
        description = checkpoint.description(ROOT / rows.SHIPPED / row / rows.MODEL, ModelDescription)
        model = default["models"][default["experiments"][row]["model"]]
        assert config.plain(description.model) == config.plain(config.parse(type(description.model), model, where=row))
    files = [file for file in (ROOT / rows.SHIPPED).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 12 * 2**20
