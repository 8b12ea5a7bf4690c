"""Simulated videos lie as a user's own would, with the commands of every frame where the world has some."""

import contextlib

import numpy as np
import pytest
import torch

from components.datasets import actions
from components.datasets.clips import Clips
from components.foundation.config import parse
from components.simulation import pusher
from components.video import video
from pipeline import preprocess, simulate
from pipeline.runtime import ray_map

WORLD = {"episodes": {"train": 9, "val": 1, "test": 2}, "frames": 6, "resolution": [32, 32], "seed": 0, "fps": 10}
CUT = {
    "kind": "folder", "split": {"kind": "named"}, "frames": 3, "stride": 2, "step": 1, "resolution": [32, 32],
    "shard": 4, "max_rejected": 0.5, "reader": "auto", "fps": None, "words": None, "actions": "actions.csv",
}  # fmt: skip


class Log:
    """A run that keeps nothing."""

    def artifact(self, *_):
        pass

    dataset = artifact


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    """Tasks run in this process, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_map, "connect", lambda *_, **__: contextlib.nullcontext(ray_map.INLINE))


def run(tmp_path, kind):
    out = tmp_path / kind
    out.mkdir()
    params = parse(simulate.Params, {"simulation": {"kind": kind, "objects": [1, 2], **WORLD}}, where="test")
    return out, params.simulation, simulate.main(params, out=out, log=Log())


def test_a_pusher_writes_its_commands_beside_its_videos(tmp_path):
    out, config, metrics = run(tmp_path, "pusher")
    assert metrics == {"episodes": 12, "frames": 72}
    table = actions.read(out / "actions.csv")
    assert table.columns == ("right", "down")
    assert len(table.videos) == 12
    for name in ("train/00008.mp4", "test/00001.mp4"):
        split, number = name.removesuffix(".mp4").split("/")
        episode = pusher.simulate(config, split, int(number))
        assert np.array_equal(table.videos[name].astype(np.float32), episode.commands)
        read = video.read(out / name, (32, 32)).frames
        assert read.shape == episode.clip.shape
        assert (read.float() - episode.clip.float()).abs().mean() < 8  # mp4 loses some


def test_a_world_without_commands_writes_none(tmp_path):
    out, _, _ = run(tmp_path, "shapes")
    assert sorted(path.name for path in out.iterdir()) == ["test", "train", "val"]


def test_the_commands_of_simulated_videos_reach_the_clips(tmp_path):
    videos, config, _ = run(tmp_path, "pusher")
    params = parse(preprocess.Params, {"dataset": {**CUT, "path": str(videos)}}, where="test")
    (tmp_path / "clips").mkdir()
    preprocess.main(params, out=tmp_path / "clips", log=Log())
    test = Clips.open(tmp_path / "clips", "test")
    assert test.name(3) == "test/00001.mp4@1"
    commands = torch.from_numpy(pusher.simulate(config, "test", 1).commands)
    expected = torch.stack([commands[1:3].mean(0), commands[3:5].mean(0), commands[5]])
    torch.testing.assert_close(test.annotations([3]).actions[0], expected)
