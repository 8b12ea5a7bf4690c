"""The command `repair`: only damaged shards of clips are cut again. test_moments.py covers shards of latents."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation import config
from components.foundation.errors import InputError
from components.sources import cutting, sources
from components.sources.sources import FolderConfig
from components.video import video
from pipeline.commands import repair

VIDEOS = ("train/a.mp4", "train/b.mp4", "train/c.mp4", "val/d.mp4", "test/e.mp4")


@pytest.fixture
def cut(tmp_path: Path) -> tuple[Path, Path]:
    """Clips and the videos they are from; one of train is also in test, which keeps it, and one is broken."""
    videos, clips, state = (tmp_path / name for name in ("videos", "clips", "state"))
    for seed, name in enumerate(VIDEOS):
        noise = torch.randint(0, 255, (9, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        video.write(videos / name, noise, 10)
    shutil.copy(videos / "train/b.mp4", videos / "test/twin.mp4")
    (videos / "train/broken.mp4").write_bytes(b"nothing")
    choices = config.parse(
        FolderConfig,
        {"kind": "folder", "path": str(videos), "split": {"kind": "named"}, "frames": 4, "stride": 1, "step": 2}
        | {
            "resolution": [16, 16],
            "shard": 2,
            "max_rejected": 0.5,
            "reader": "auto",
            "fps": None,
            "words": None,
            "actions": None,
        },
        where="test",
    )
    found = sources.find(choices)
    reports = [cutting.write_shard(job, choices, state) for job in cutting.jobs(found.videos, choices)]
    cutting.finish(clips, state, reports, found, choices)
    return clips, videos


def test_damaged_and_missing_shards_of_clips_are_cut_again_alone(cut, capsys) -> None:
    clips, videos = cut
    before = {path.name: path.read_bytes() for path in clips.iterdir()}
    first, last = (clips / f"{name}.safetensors" for name in ("train-00000", "val-00000"))
    first.write_bytes(before[first.name][:-1] + bytes([before[first.name][-1] ^ 1]))
    last.unlink()
    repair.repair_clips(clips, videos, check=True)
    assert "2 of 4 shards" in capsys.readouterr().out
    assert not last.exists()
    repair.repair_clips(clips, videos, check=False)
    assert {path.name: path.read_bytes() for path in clips.iterdir()} == before
    assert [path.name for path in clips.parent.iterdir() if "repair" in path.name] == []


@pytest.mark.parametrize("change", ["another film", "gone"])
def test_clips_of_videos_that_have_changed_are_not_mended(cut, change: str) -> None:
    clips, videos = cut
    (clips / "val-00000.safetensors").unlink()
    (videos / "val/d.mp4").unlink()
    if change == "another film":
        shutil.copy(videos / "train/a.mp4", videos / "val/d.mp4")
    with pytest.raises(InputError, match=r"val-00000.safetensors cannot be cut again: the videos in .* have changed"):
        repair.repair_clips(clips, videos, check=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "nothing to repair; add --videos to repair clips, or --latents and --autoencoder"),
        ({"latents": Path("latents")}, "--autoencoder is missing"),
        ({"autoencoder": Path("vae")}, "--latents is missing"),
    ],
)
def test_incomplete_options_are_refused_before_anything_is_read(given, words) -> None:
    options: dict[str, Any] = {"videos": None, "autoencoder": None, "latents": None, "check": False}
    with pytest.raises(InputError, match=words):
        repair.run(Path("clips"), **options | given)
