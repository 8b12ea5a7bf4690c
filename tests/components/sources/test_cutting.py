import csv
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.datasets import shards
from components.datasets.clips import Clips
from components.datasets.selection import evaluation_clips
from components.foundation import config
from components.foundation.errors import InputError
from components.sources import cutting, sources
from components.sources.cutting import ShardReport
from components.sources.sources import FolderConfig
from components.video import pictures, video

ROOT = Path(__file__).parents[3]
DROID = ROOT.parent / "shared" / "data" / "droid"
FRAMES = {  # frames of each video: two shards of train, one of val, one of test
    "train/a.mp4": 9,
    "train/b & <b>.mp4": 12,
    "train/deep/c.mp4": 5,
    "val/d.mp4": 5,
    "test/e.mp4": 7,
}


def folder_config(folder: Path, **changes: object) -> FolderConfig:
    data = {
        "kind": "folder",
        "path": str(folder),
        "split": {"kind": "named"},
        "frames": 5,
        "stride": 1,
        "step": 4,
        "resolution": [16, 24],
        "shard": 2,
        "max_rejected": 0.5,
        "reader": "auto",
        "fps": None,
        "words": None,
        "actions": None,
    }
    return config.parse(FolderConfig, {**data, **changes}, where="test")


def film(seed: int, frames: int) -> torch.Tensor:
    """A bright block that moves over a background of its own."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.randint(60, 120, (3, 4, 6), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    clip = background.to(torch.uint8).repeat(frames, 1, 1, 1)
    for frame in range(frames):
        clip[frame, :, 4:12, frame : frame + 8] = 220
    return clip


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, frames) in enumerate(FRAMES.items()):
        video.write(folder / name, film(seed, frames), 10)
    return folder


@pytest.fixture
def videos(films, tmp_path):
    return shutil.copytree(films, tmp_path / "videos")


def make(out, choices, turn=1):
    found, state = sources.find(choices), out.with_name(f"{out.name}-state")
    work = cutting.jobs(found.videos, choices)[::turn]
    return cutting.finish(out, state, [cutting.write_shard(job, choices, state) for job in work], found, choices)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_clip_is_its_window_of_the_video(videos, tmp_path):
    numbers = make(tmp_path / "out", folder_config(videos))
    assert (numbers["clips_train"], numbers["clips_val"], numbers["clips_test"]) == (5, 1, 1)
    assert (numbers["videos"], numbers["videos_rejected"]) == (5, 0)
    stored = Clips.open(tmp_path / "out", "train")
    assert (len(stored), stored.frames, stored.size) == (5, 5, (16, 24))
    windows = [("train/a.mp4", 0), ("train/a.mp4", 4), ("train/b & <b>.mp4", 0), ("train/b & <b>.mp4", 4)]
    for index, (name, first) in enumerate([*windows, ("train/deep/c.mp4", 0)]):
        assert stored.name(index) == f"{name}@{first}"
        frames = video.read(videos / name, (16, 24)).frames
        assert torch.equal(stored.read([index])[0], frames[first : first + 5])
    assert torch.equal(stored.read([4, 1, 4])[[0, 2]], stored.read([4, 4]))


def test_a_stride_skips_frames_and_the_step_counts_frames_of_the_video(videos, tmp_path):
    make(tmp_path / "out", folder_config(videos, frames=3, stride=2, step=1))
    stored = Clips.open(tmp_path / "out", "test")
    frames = video.read(videos / "test/e.mp4", (16, 24)).frames
    assert [stored.name(index) for index in range(len(stored))] == [f"test/e.mp4@{first}" for first in (0, 1, 2)]
    assert torch.equal(stored.read([2])[0], frames[[2, 4, 6]])


@pytest.mark.parametrize(
    ("frames", "stride", "reason"),
    [
        (8, 1, "has 7 frames, but a clip needs 8"),
        (4, 3, r"has 7 frames, but a clip needs 10 (4 of every 3)"),
        (4, 2, None),
    ],
)
def test_a_video_is_too_short_only_where_no_clip_fits(videos, tmp_path, frames, stride, reason):
    choices = folder_config(videos, frames=frames, stride=stride)
    job = cutting.jobs(sources.find(choices).videos, choices)[-1]
    report = cutting.write_shard(job, choices, tmp_path)
    assert [finding.reason for finding in report.rejections] == ([reason] if reason else [])
    assert len(report.clips) == (0 if reason else 1)


@pytest.mark.parametrize(("frames", "stride", "step"), [(5, 1, 4), (5, 1, 1), (3, 2, 9), (1, 1, 1), (2, 4, 3)])
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_clips_do_not_depend_on_how_many_frames_come_at_a_time(
    videos, tmp_path, monkeypatch, frames, stride, step, chunk
):
    whole = video.read(videos / "train/b & <b>.mp4", (16, 24)).frames
    monkeypatch.setattr(pictures, "CHUNK_FRAMES", chunk)
    choices = folder_config(videos, frames=frames, stride=stride, step=step)
    job = cutting.jobs(sources.find(choices).videos, choices)[0]
    report = cutting.write_shard(job, choices, tmp_path)
    starts = [cut.first_frame for cut in report.clips if cut.video == "train/b & <b>.mp4"]
    span = (frames - 1) * stride + 1
    assert starts == list(range(0, 12 - span + 1, step))
    stored = list(shards.some(tmp_path / report.shard.file, range(len(report.clips) - len(starts), len(report.clips))))
    for start, clip in zip(starts, stored, strict=True):
        assert torch.equal(clip[0], whole[start : start + span : stride])
    assert report.digests["train/b & <b>.mp4"] == hashlib.sha256(whole.numpy()).hexdigest()


PEAK = """
import resource, sys
from pathlib import Path
from components.foundation import config
from components.sources import cutting, sources
from components.sources.sources import FolderConfig

choices = config.parse(FolderConfig, config.read_yaml(Path(sys.argv[1])), where="test")
(job,) = cutting.jobs(sources.find(choices).videos, choices)
report = cutting.write_shard(job, choices, Path(sys.argv[2]))
print(len(report.clips), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    peaks = {}
    for frames in (100, 1600):
        folder = tmp_path / str(frames)
        for split in ("val", "test"):
            (folder / split).mkdir(parents=True)
        video.write(folder / "train/long.mp4", film(0, 16).repeat(frames // 16 + 1, 1, 1, 1)[:frames], 10)
        choices = folder_config(folder, frames=16, step=1, resolution=[96, 144])
        (tmp_path / "choices.yaml").write_text(config.dump_yaml(config.plain(choices)))
        words = [sys.executable, "-c", PEAK, str(tmp_path / "choices.yaml"), str(folder / "state")]
        done = subprocess.run(
            words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, check=True
        )
        clips, peaks[frames] = map(float, done.stdout.split())
        assert clips == frames - 15
    assert peaks[1600] < peaks[100] + 50  # MiB; the frames are 66, the clips 1054


def test_jobs_hold_every_video_once_and_never_two_splits(films):
    choices = folder_config(films)
    found = sources.find(choices).videos
    work = cutting.jobs(found[::-1], choices)
    assert [(job.split, job.index, len(job.videos)) for job in work] == [
        ("train", 0, 2),
        ("train", 1, 1),
        ("val", 0, 1),
        ("test", 0, 1),
    ]
    assert tuple(source for job in work for source in job.videos) == found
    assert all(source.split == job.split for job in work for source in job.videos)


def test_no_video_gives_clips_to_two_splits(videos, tmp_path):
    make(tmp_path / "out", folder_config(videos, split={"kind": "hash", "val": 0.3, "test": 0.3}, step=1))
    with (tmp_path / "out/clips.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    splits = {line["video"]: {other["split"] for other in lines if other["video"] == line["video"]} for line in lines}
    assert len(splits) == 5
    assert all(len(found) == 1 for found in splits.values())


def test_the_plan_of_clips_says_which_ones_protocols_score(videos, tmp_path):
    make(tmp_path / "out", folder_config(videos, split={"kind": "hash", "val": 0.3, "test": 0.3}, step=1))
    with (tmp_path / "out/clips.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["stride"] for line in lines} == {"1"}
    for split in {line["split"] for line in lines}:
        own = [line for line in lines if line["split"] == split]
        scored, _ = evaluation_clips([f"{line['video']}@{line['first_frame']}" for line in own], len(own) // 2)
        assert (
            scored == [int(line["clip"]) for line in sorted(own, key=lambda line: int(line["scored"]))][: len(scored)]
        )


def test_the_bytes_depend_on_the_videos_alone(videos, tmp_path):
    (videos / "train/broken.mp4").write_bytes(b"no video")
    shutil.copytree(videos, tmp_path / "elsewhere")
    make(tmp_path / "a", folder_config(videos))
    make(tmp_path / "b", folder_config(tmp_path / "elsewhere", max_rejected=0.9), turn=-1)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert sorted(content(tmp_path / "a")) == [
        "clips.csv",
        "manifest.json",
        "rejected.html",
        "rejected.json",
        "test-00000.safetensors",
        "train-00000.safetensors",
        "train-00001.safetensors",
        "val-00000.safetensors",
        "videos.csv",
    ]


def test_the_hash_follows_the_clips_and_how_they_were_cut(videos, tmp_path):
    make(tmp_path / "a", folder_config(videos))
    make(tmp_path / "b", folder_config(videos, step=5))
    video.write(videos / "val/d.mp4", film(9, 5), 10)
    make(tmp_path / "c", folder_config(videos))
    assert len({Clips.open(tmp_path / name, "train").hash for name in "abc"}) == 3


def test_a_report_survives_json_and_pickle(videos, tmp_path):
    choices = folder_config(videos)
    (videos / "train/a.mp4").write_bytes(b"")
    report = cutting.write_shard(cutting.jobs(sources.find(choices).videos, choices)[0], choices, tmp_path)
    assert report.rejections
    assert config.parse(ShardReport, json.loads(json.dumps(config.plain(report))), where="report") == report
    assert pickle.loads(pickle.dumps(report)) == report


def test_bad_videos_are_listed_with_their_reasons_and_the_rest_is_kept(videos, tmp_path):
    (videos / "train/b & <b>.mp4").write_bytes(b"")
    video.write(videos / "test/f.mp4", film(0, 3), 10)
    numbers = make(tmp_path / "out", folder_config(videos))
    assert (numbers["videos_rejected"], numbers["clips_train"], numbers["clips_test"]) == (2, 3, 1)
    listed = json.loads((tmp_path / "out/rejected.json").read_text())
    assert listed["videos"] == 6
    assert [(told["split"], told["video"]) for told in listed["rejected"]] == [
        ("train", "train/b & <b>.mp4"),
        ("test", "test/f.mp4"),
    ]
    assert [told["reason"] for told in listed["rejected"]] == ["is empty (0 bytes)", "has 3 frames, but a clip needs 5"]
    page = (tmp_path / "out/rejected.html").read_text()
    assert "2 of 6 videos are rejected" in page
    assert "train/b &amp; &lt;b&gt;.mp4" in page
    assert str(videos) not in page


def test_a_shard_without_a_good_video_has_no_file_and_a_split_without_videos_counts_zero(videos, tmp_path):
    (videos / "val/d.mp4").unlink()
    for name in ("train/a.mp4", "train/b & <b>.mp4"):
        (videos / name).write_bytes(b"")
    out = tmp_path / "out"
    make(out, folder_config(videos, max_rejected=0.6))
    names = [path.name for path in sorted(out.glob("*.safetensors"))]
    assert names == ["test-00000.safetensors", "train-00001.safetensors"]
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"train": 1, "val": 0, "test": 1}
    assert Clips.open(out, "train").name(0) == "train/deep/c.mp4@0"
    with pytest.raises(InputError, match=r"the split val of .* is empty"):
        Clips.open(out, "val")


def test_more_bad_videos_than_allowed_fail_after_the_report_is_written(videos, tmp_path):
    for name, frames in (("train/a.mp4", 2), ("train/b & <b>.mp4", 3)):
        video.write(videos / name, film(0, frames), 10)
    (videos / "test/f.mp4").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(InputError) as refused:
        make(out, folder_config(videos, max_rejected=0.4))
    sentence = str(refused.value)
    assert "3 of 6 videos are rejected" in sentence
    assert "most often (2 times) for the same reason as train/a.mp4, which has 2 frames, but a clip needs 5" in sentence
    assert str(out / "rejected.html") in sentence
    assert len(json.loads((out / "rejected.json").read_text())["rejected"]) == 3
    assert not (out / "manifest.json").exists()
    make(out, folder_config(videos, max_rejected=0.6))


@pytest.mark.parametrize(("split", "rejected"), [("train", 3), ("val", 1), ("test", 1)])
def test_a_split_of_bad_videos_fails_whatever_is_allowed(videos, tmp_path, split, rejected):
    for path in (videos / split).rglob("*.mp4"):
        path.write_bytes(b"")
    told = f"no clip is left for the split {split}: {rejected} of 5 videos are rejected"
    with pytest.raises(InputError, match=told):
        make(tmp_path / "out", folder_config(videos, max_rejected=1.0))
    assert (tmp_path / "out/rejected.html").exists()


def test_a_video_that_is_there_twice_in_a_split_is_kept_and_told(videos, tmp_path):
    shutil.copy(videos / "test/e.mp4", videos / "test/copy.mp4")
    assert make(tmp_path / "out", folder_config(videos))["videos_doubtful"] == 1
    listed = json.loads((tmp_path / "out/rejected.json").read_text())
    assert listed["rejected"] == []
    reason = "has the same frames as test/copy.mp4 in test"
    assert listed["doubtful"] == [{"kind": "duplicate", "split": "test", "video": "test/e.mp4", "reason": reason}]
    assert len(Clips.open(tmp_path / "out", "test")) == 2


def test_a_video_that_is_in_two_splits_stays_in_the_one_that_is_scored(videos, tmp_path):
    shutil.copy(videos / "train/a.mp4", videos / "test/copy.mp4")
    shutil.copy(videos / "train/deep/c.mp4", videos / "val/copy.mp4")
    numbers = make(tmp_path / "out", folder_config(videos, max_rejected=0.5))
    assert (numbers["videos_rejected"], numbers["videos_duplicate"]) == (2, 2)
    listed = json.loads((tmp_path / "out/rejected.json").read_text())
    assert {told["video"]: told["reason"] for told in listed["rejected"]} == {
        "train/a.mp4": "has the same frames as test/copy.mp4 in test, which keeps it",
        "train/deep/c.mp4": "has the same frames as val/copy.mp4 in val, which keeps it",
    }
    train, test = (Clips.open(tmp_path / "out", split) for split in ("train", "test"))
    assert [train.name(index) for index in range(len(train))] == ["train/b & <b>.mp4@0", "train/b & <b>.mp4@4"]
    frames = video.read(videos / "train/b & <b>.mp4", (16, 24)).frames
    assert torch.equal(train.read([1])[0], frames[4:9])
    train.verify()
    assert {test.name(index).split("@")[0] for index in range(len(test))} == {"test/copy.mp4", "test/e.mp4"}


def test_odd_videos_are_told_and_the_rest_is_kept(videos, tmp_path):
    video.write(videos / "train/one frame.mp4", film(3, 1), 10)
    (videos / "train/深い ö & ü").mkdir()
    video.write(videos / "train/深い ö & ü/é 1.mp4", film(4, 5), 10)
    (videos / "train/loop").symlink_to(videos / "train")
    (videos / "val/self.mp4").symlink_to(videos / "val/self.mp4")
    numbers = make(tmp_path / "out", folder_config(videos))
    assert (numbers["videos_rejected"], numbers["videos_short"], numbers["videos_left_out"]) == (2, 1, 1)
    listed = json.loads((tmp_path / "out/rejected.json").read_text())
    assert {told["video"]: (told["kind"], told["reason"]) for told in listed["rejected"]} == {
        "train/one frame.mp4": ("short", "has 1 frame, but a clip needs 5"),
        "val/self.mp4": ("broken", "does not exist"),
    }
    assert [told["video"] for told in listed["left_out"]] == ["train/loop"]
    train = Clips.open(tmp_path / "out", "train")
    assert "train/深い ö & ü/é 1.mp4@0" in [train.name(index) for index in range(len(train))]


def test_a_video_that_mostly_stands_still_is_kept_and_told(videos, tmp_path):
    video.write(videos / "train/still.mp4", film(7, 1).repeat(8, 1, 1, 1), 10)
    assert make(tmp_path / "out", folder_config(videos))["videos_doubtful"] == 1
    (told,) = json.loads((tmp_path / "out/rejected.json").read_text())["doubtful"]
    assert (told["video"], told["reason"][:8]) == ("train/still.mp4", "repeats ")


def test_damage_is_named(videos, tmp_path):
    make(tmp_path / "out", folder_config(videos))
    stored = Clips.open(tmp_path / "out", "train")
    stored.verify()
    index, shard = tmp_path / "out/clips.csv", tmp_path / "out/train-00001.safetensors"
    whole, bits = index.read_text(), bytearray(shard.read_bytes())
    index.write_text(whole.replace("@", "").replace("train/a", "train/z"))
    with pytest.raises(InputError, match=r"clips\.csv is damaged"):
        stored.verify()
    index.write_text("\n".join(whole.splitlines()[:-3]))
    with pytest.raises(InputError, match=r"clips\.csv lists 4 clips of train, not 5"):
        stored.name(0)
    index.write_text(whole)
    bits[-1] ^= 4
    shard.write_bytes(bits)
    with pytest.raises(InputError, match=r"train-00001\.safetensors is damaged"):
        stored.verify()
    shard.write_bytes(bits[:-100])
    with pytest.raises(InputError, match=r"train-00001\.safetensors has \d+ bytes instead of"):
        Clips.open(tmp_path / "out", "train")


def test_a_folder_that_holds_no_clips_is_refused(videos):
    with pytest.raises(InputError, match=r"manifest\.json does not exist; choose another folder"):
        Clips.open(videos, "train")


@pytest.mark.skipif(not DROID.is_dir(), reason="the folder of robot recordings is not at ../shared/data/droid")
def test_real_recordings_become_clips(tmp_path):
    labs = sorted(path.name for path in DROID.iterdir() if path.is_dir())
    split = {"kind": "folders", "val": labs[:1], "test": labs[1:2]}
    choices = folder_config(DROID, split=split, frames=17, step=17, resolution=[64, 64], shard=3)
    found = sources.find(choices)
    assert len(found.videos) == len(list(DROID.rglob("*.mp4")))
    work = [job for job in cutting.jobs(found.videos, choices) if job.index == 0]
    state = tmp_path / "state"
    reports = [cutting.write_shard(job, choices, state) for job in work]
    numbers = cutting.finish(tmp_path, state, reports, found, choices)
    assert (numbers["videos"], numbers["videos_rejected"]) == (9, 0)
    assert all(numbers[f"clips_{part}"] >= 3 for part in ("train", "val", "test"))
    assert Clips.open(tmp_path, "test").read([0, 1]).float().std() > 10
