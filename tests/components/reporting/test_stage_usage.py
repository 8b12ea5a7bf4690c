"""What the stages used is read back from the files that they leave."""

import json

import pytest

from components.foundation.errors import InputError
from components.reporting import stage_usage

USED = {
    "stage": "train", "row": "a", "run": "7f", "ended": 20.0, "seconds": 10.0, "peak_memory_mib": 512.0,
    "cpu_hours": 0.5, "gpu_hours": 0.0, "node_seconds": 10.0, "cost_EUR": 0.25,
    "tags": {"commit": "0123456789abcdef", "cpus": "2", "python": "3.11"},
}  # fmt: skip


def leave(folder, **changed):
    content = USED | changed
    path = folder / content["stage"] / f"{content['row']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_the_usage_of_all_stages_is_told_in_the_order_of_their_ends(tmp_path):
    leave(tmp_path)
    leave(tmp_path, stage="evaluate", ended=30.0)
    leave(tmp_path, stage="preprocess", row="videos", ended=10.0, tags={})
    found = stage_usage.read_usage(tmp_path)
    assert [(one.stage, one.row) for one in found] == [("preprocess", "videos"), ("train", "a"), ("evaluate", "a")]
    assert (found[1].commit, found[1].memory, found[1].machine) == ("0123456789", 512.0, "2 CPU cores")
    assert (found[1].cpu_hours, found[1].cost, found[1].run) == (0.5, "0.25 EUR", "7f")
    assert (found[0].commit, found[0].machine) == ("", "? CPU cores")


def test_a_damaged_file_is_named(tmp_path):
    path = leave(tmp_path, seconds="long")
    with pytest.raises(InputError, match=rf"{path} does not have the format .*; run `dvc repro`"):
        stage_usage.read_usage(tmp_path)
