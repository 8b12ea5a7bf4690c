"""A disk that is full or read-only: one sentence, nothing that was made is lost, and the work goes on after."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from components.datasets import latents
from components.foundation.errors import InputError
from components.sources import cutting, sources
from tests.components.sources.test_cutting import content, films, folder_config, make, videos

__all__ = ["films", "videos"]  # fixtures
FULL = r"cannot be written \(No space left on device\); free space"
LOCKED = r"cannot be written \(Read-only file system\); free space or grant write access"


def fill(disk: Path, left: int) -> Path:
    """Leaves so many bytes of it, or a page more."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return filler


def test_what_was_cut_survives_a_disk_that_fills_while_it_is_put_together(videos, tmp_path, small_disk):
    choices = folder_config(videos)
    make(tmp_path / "whole", choices)
    found, state, out = sources.find(choices), tmp_path / "state", small_disk / "out"
    work = cutting.jobs(found.videos, choices)
    reports = [cutting.write_shard(job, choices, state) for job in work]
    out.mkdir()
    *_, last = reports
    beside = sum(path.stat().st_size + 4096 for path in (tmp_path / "whole").glob("*.[jhc]*"))
    filler = fill(small_disk, beside + sum(report.shard.bytes for report in reports) - last.shard.bytes)
    with pytest.raises(InputError, match=FULL):
        cutting.finish(out, state, reports, found, choices)
    assert (out / reports[0].shard.file).exists()
    assert [cutting.finished(job, choices, state) for job in work] == reports
    filler.unlink()
    cutting.finish(out, state, reports, found, choices)
    assert content(out) == content(tmp_path / "whole")


def test_a_shard_that_finds_no_room_leaves_nothing_and_is_cut_later(videos, tmp_path, small_disk):
    choices = folder_config(videos)
    (job, *_) = cutting.jobs(sources.find(choices).videos, choices)
    filler = fill(small_disk, 4096)
    with pytest.raises(InputError, match=FULL):
        cutting.write_shard(job, choices, small_disk)
    assert list(small_disk.iterdir()) == [filler]
    filler.unlink()
    assert cutting.write_shard(job, choices, small_disk) == cutting.write_shard(job, choices, tmp_path / "elsewhere")


def test_moments_that_find_no_room_leave_nothing(small_disk):
    filler = fill(small_disk, 4096)
    with pytest.raises(InputError, match=FULL):
        latents.write_shard(small_disk, "train", 0, torch.zeros(4, 5, 8, 4, 4))
    assert list(small_disk.iterdir()) == [filler]


def test_a_read_only_disk_is_told_of(videos, tmp_path, small_disk):
    choices = folder_config(videos)
    found, state = sources.find(choices), tmp_path / "state"
    reports = [cutting.write_shard(job, choices, state) for job in cutting.jobs(found.videos, choices)]
    subprocess.run(("mount", "-o", "remount,ro", small_disk), check=True)
    with pytest.raises(InputError, match=LOCKED):
        cutting.write_shard(cutting.jobs(found.videos, choices)[0], choices, small_disk / "state")
    with pytest.raises(InputError, match=LOCKED):
        latents.write_shard(small_disk, "train", 0, torch.zeros(4, 5, 8, 4, 4))
    with pytest.raises(InputError, match=LOCKED):
        cutting.finish(small_disk, state, reports, found, choices)
