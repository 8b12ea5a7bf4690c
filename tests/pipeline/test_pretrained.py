"""The script that ships a trained row writes what predicts the same frames in a clone where nothing is trained."""

import json
from pathlib import Path

import pytest
import torch

from components.foundation.errors import InputError
from components.video import video
from deploy import pretrained
from pipeline.commands.prediction import rows
from pipeline.commands.video_predictor import VideoPredictor

ROW = "kuka-canvasmar"


def test_a_shipped_row_predicts_what_the_trained_row_predicts_and_its_card_has_its_scores(
    journey: Path, tmp_path: Path
) -> None:
    place = pretrained.refresh(journey, tmp_path / rows.SHIPPED, ROW)
    assert {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()} == {
        "README.md", "row.json", "example.mp4",
        *(f"{part}/{file}" for part in ("model", "autoencoder") for file in ("weights.safetensors", "config.json")),
    }  # fmt: skip
    trained, shipped = (VideoPredictor.open(folder, ROW, "cpu") for folder in (journey, tmp_path))
    assert trained.row is not None
    assert shipped.row is not None
    assert (trained.row.shipped, shipped.row.shipped) == (False, True)
    assert (shipped.fps, shipped.row.surprise) == (trained.fps, trained.row.surprise) != (None, None)
    context = trained.prepare(video.read(place / rows.EXAMPLE, trained.size).frames[:3])
    one, other = (torch.cat([step.frame for step in row.stream(context, frames=4)]) for row in (trained, shipped))
    assert torch.equal(one, other)
    scores = json.loads((journey / "metrics" / "evaluate" / f"{ROW}.json").read_text(encoding="utf-8"))
    assert f"| {ROW} | {scores['fvd']:.0f} | {scores['psnr']:.1f} |" in (place / "README.md").read_text("utf-8")


def test_a_row_that_is_not_trained_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 'push-canvasmar' is not trained"):
        pretrained.refresh(tmp_path, tmp_path / rows.SHIPPED)
