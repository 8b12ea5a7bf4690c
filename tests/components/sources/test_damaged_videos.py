"""Damaged copies of good videos: none of them harms a good one, ends a worker or goes by untold."""

import csv
import json
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from components.datasets.clips import Clips
from components.foundation import config
from components.sources import cutting, sources
from components.sources.sources import FolderConfig
from components.video import video
from tests.components.sources import official

GOOD = 8


def choices(folder: Path) -> FolderConfig:
    data = {
        "kind": "folder",
        "path": str(folder),
        "split": {"kind": "hash", "val": 0.0, "test": 0.0},
        "frames": 5,
        "stride": 1,
        "step": 5,
        "resolution": [16, 24],
        "shard": 4,
        "max_rejected": 1.0,
        "reader": "auto",
        "fps": None,
        "words": None,
        "actions": None,
    }
    return config.parse(FolderConfig, data, where="test")


def damage(content: bytes, kind: int, random: np.random.Generator) -> bytes:
    """A file cut off, with some bytes changed, with many, with a hole, or with a part twice."""
    spoilt = np.frombuffer(content, np.uint8).copy()
    first, second = sorted(random.integers(0, len(content), 2))
    match kind % 5:
        case 0:
            return content[:first]
        case 1 | 2:
            places = random.integers(0, len(content), 3 if kind % 5 == 1 else len(content) // 20)
            spoilt[places] ^= random.integers(1, 256, len(places), np.uint8)
            return spoilt.tobytes()
        case 3:
            spoilt[first:second] = 0
            return spoilt.tobytes()
        case _:
            return content[:second] + content[first:]


def fill(folder: Path, copies: int) -> None:
    """Good videos in several containers, and damaged copies of them."""
    random = np.random.default_rng(0)
    for number in range(GOOD):
        video.write(folder / f"good/{number} ü.mp4", official.film(number), 25)
    for copy in range(copies):
        content = (folder / f"good/{copy % GOOD} ü.mp4").read_bytes()
        (folder / "bad").mkdir(exist_ok=True)
        (folder / f"bad/{copy:03d}.mp4").write_bytes(damage(content, copy // GOOD, random))


def check(folder: Path, out: Path, copies: int) -> None:
    """Every good video gave its clips bit for bit, and every other one is rejected or gave some."""
    clips = Clips.open(out, "train")
    rows = {clips.name(index): index for index in range(len(clips))}
    for number in range(GOOD):
        frames = video.read(folder / f"good/{number} ü.mp4", (16, 24)).frames
        for first in (0, 5, 10, 15):
            clip = clips.read([rows[f"good/{number} ü.mp4@{first}"]])[0]
            assert torch.equal(clip, frames[first : first + 5])
    told = json.loads((out / "rejected.json").read_text(encoding="utf-8"))
    rejected = {finding["video"] for finding in told["rejected"]}
    with (out / "clips.csv").open(newline="", encoding="utf-8") as file:
        kept = {line["video"] for line in csv.DictReader(file)}
    assert rejected | kept == {f"bad/{copy:03d}.mp4" for copy in range(copies)} | {
        f"good/{number} ü.mp4" for number in range(GOOD)
    }
    assert not rejected & kept
    assert len(rejected) > copies / 4
    assert Counter(finding["kind"] for finding in told["rejected"])["broken"] > copies / 4


def test_damaged_copies_lose_no_good_clip(tmp_path: Path) -> None:
    fill(tmp_path / "videos", 40)
    picked = choices(tmp_path / "videos")
    found = sources.find(picked)
    work = cutting.jobs(found.videos, picked)
    reports = [cutting.write_shard(job, picked, tmp_path / "state") for job in work]
    cutting.finish(tmp_path / "out", tmp_path / "state", reports, found, picked)
    check(tmp_path / "videos", tmp_path / "out", 40)


def test_two_hundred_damaged_copies_end_no_worker_and_any_number_of_workers_writes_the_same_bytes(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "videos", 200)
    picked = choices(tmp_path / "videos")
    found = sources.find(picked)
    work = cutting.jobs(found.videos, picked)
    contents = []
    for workers in (1, 3):
        out, state = tmp_path / f"out-{workers}", tmp_path / f"state-{workers}"
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # a lost worker breaks the pool
            reports = list(pool.map(partial(cutting.write_shard, config=picked, state=state), work))
        cutting.finish(out, state, reports[::-1], found, picked)
        check(tmp_path / "videos", out, 200)
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert contents[0] == contents[1]


def test_a_job_that_is_done_is_not_done_again_unless_something_has_changed(tmp_path: Path) -> None:
    fill(tmp_path / "videos", 4)
    picked, state = choices(tmp_path / "videos"), tmp_path / "state"
    bad, good = cutting.jobs(sources.find(picked).videos, picked)[:2]
    assert cutting.finished(good, picked, state) is None
    report = cutting.write_shard(good, picked, state)
    assert cutting.finished(good, picked, state) == report
    assert cutting.finished(good, picked.model_copy(update={"max_rejected": 0.5}), state) == report
    assert cutting.finished(good, picked.model_copy(update={"step": 6}), state) is None
    assert cutting.finished(good, picked.model_copy(update={"reader": "pyav"}), state) is None
    assert cutting.finished(bad, picked, state) is None
    assert report.shard is not None
    shard = state / report.shard.file
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"?")
    assert cutting.finished(good, picked, state) is None
    shard.write_bytes(content)
    assert cutting.finished(good, picked, state) == report
    shutil.copy(good.videos[1].path, good.videos[0].path)
    assert cutting.finished(good, picked, state) is None


def test_clips_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    from components.foundation.errors import InputError

    fill(tmp_path / "videos", 0)
    picked = choices(tmp_path / "videos")
    (tmp_path / "state").touch()
    with pytest.raises(InputError, match=r"state.* cannot be written \(.+\); free space or grant write access"):
        cutting.write_shard(cutting.jobs(sources.find(picked).videos, picked)[0], picked, tmp_path / "state")
