"""The stage that cuts clips, killed in the middle: it goes on, and its outputs are those of a run that was not."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from components.foundation.config import read_yaml
from components.sources import cutting, sources
from pipeline import preprocess
from pipeline.runtime.stage import resolve
from tests.components.sources import official
from tests.pipeline.conftest import environment, run

PREPROCESS = ("python", "-m", "pipeline.preprocess", "--row", "kuka", "--out", "out")
VIDEOS = 160


@pytest.mark.faults
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(project: Path, edit, monkeypatch) -> None:
    from components.video import video

    for number in range(VIDEOS):
        video.write(project / "videos" / f"{number:03d}.mp4", official.film(number, 40), 25)
    split = {"kind": "hash", "val": 0.1, "test": 0.1}
    for name, value in {"path": "videos", "split": split, "shard": 1, "step": 10}.items():
        edit(project, f"datasets.kuka.{name}", value)
    state = project / ".state" / "cache" / "clips"
    driver = subprocess.Popen(
        PREPROCESS, cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(state.glob("*/*.json")):
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert 0 < len(list(state.glob("*/*.json"))) < VIDEOS
    assert not (project / "out").exists()
    done = run(project, *PREPROCESS)
    assert f"of {VIDEOS} shards are complete" in done.stdout
    assert not list(state.iterdir())

    monkeypatch.chdir(project)
    dataset = resolve(preprocess.Params, read_yaml(project / "params.yaml"), "datasets", "kuka").dataset
    found = sources.find(dataset)
    alone = [cutting.write_shard(job, dataset, project / "alone") for job in cutting.jobs(found.videos, dataset)]
    cutting.finish(project / "whole", project / "alone", alone, found, dataset)
    whole, resumed = (
        {path.name: path.read_bytes() for path in (project / name).iterdir()} for name in ("whole", "out")
    )
    assert len(whole) > VIDEOS
    assert whole == resumed
