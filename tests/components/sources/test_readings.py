"""How each video was read, and at which rate, stands in the report and in the manifest."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch

from components.datasets.clips import Clips
from components.foundation.errors import InputError
from components.video import video
from tests.components.sources.test_cutting import film, folder_config, make


def test_the_reader_of_every_video_and_its_reason_are_in_the_report_and_in_the_manifest(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("train/a.mp4", "val/b.mp4", "test/c.mp4"):
        video.write(videos / name, film(len(name), 9), 10)
    video.write(videos / "train/wide.mp4", film(0, 9).repeat(1, 1, 1, 6)[..., :128], 30)
    make(tmp_path / "out", folder_config(videos))
    told = json.loads((tmp_path / "out/rejected.json").read_text())
    assert told["readers"] == {"pyav: the pictures are narrow": 3, "decord: h264 in mov": 1}
    assert told["rates"] == {"10": 3, "30": 1}
    assert "pyav: the pictures are narrow" in (tmp_path / "out/rejected.html").read_text()
    with (tmp_path / "out/videos.csv").open(newline="") as file:
        lines = {line["video"]: line for line in csv.DictReader(file)}
    assert lines["train/wide.mp4"] == {
        "video": "train/wide.mp4",
        "split": "train",
        "reader": "decord",
        "reason": "h264 in mov",
        "frames": "9",
        "rate": "30",
    }
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["files"]["videos.csv"] == hashlib.sha256((tmp_path / "out/videos.csv").read_bytes()).hexdigest()
    assert (manifest["cut"]["reader"], manifest["cut"]["fps"]) == ("auto", None)


def test_clips_of_files_of_any_rate_have_one_rate(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for rate in (10, 20):
        video.write(videos / f"train/{rate}.mp4", film(rate, 2 * rate), rate)
    for name in ("val/b.mp4", "test/c.mp4"):
        video.write(videos / name, film(len(name), 9), 10)
    numbers = make(tmp_path / "out", folder_config(videos, fps=5.0, frames=5, step=5, max_rejected=1.0))
    assert numbers["clips_train"] == 4  # two seconds of five frames each, whatever the file's rate
    clips = Clips.open(tmp_path / "out", "train")
    whole = video.read(videos / "train/20.mp4", (16, 24)).frames
    row = [clips.name(index) for index in range(len(clips))].index("train/20.mp4@0")
    assert torch.equal(clips.read([row])[0], whole[:20:4])


def test_a_fixed_rate_and_actions_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fps must be null; set fps or actions to null"):
        folder_config(tmp_path, fps=10.0, actions="actions.csv")
