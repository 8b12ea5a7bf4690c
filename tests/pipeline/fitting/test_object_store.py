"""A training whose checkpoints are in an object store: killed and resumed, or refused if the store cannot be used."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pyarrow.fs import FileSelector
from safetensors.torch import load_file

from components.training.storage import Storage
from tests.conftest import set_free_requests
from tests.pipeline.conftest import TRAIN, build, environment, set_value
from tests.pipeline.fitting.test_training import checkpoints, history, wait_for, with_moments

pytestmark = pytest.mark.faults
URI = "s3://bucket/of/mine"
COMMAND = ("python", *TRAIN, "out")


def short(project: Path) -> Path:
    """A training of seconds with one validation, at its end."""
    with_moments(project)
    for key, value in {"steps": 40, "validate_every": 40, "checkpoint_every": 10}.items():
        set_value(project, f"recipes.model.{key}", value)
    return project


@pytest.fixture
def trainable(project: Path) -> Path:
    return short(project)


def store(uri: str = URI) -> dict[str, str]:
    """The environment of a user who keeps checkpoints there."""
    return environment() | {"CANVASMAR_STORAGE": uri} | {k: v for k, v in os.environ.items() if k.startswith("AWS_")}


def names() -> list[str]:
    """The checkpoints in the store, of the only training in it."""
    root = Storage.at("s3://bucket/of", "mine")
    runs = root.filesystem.get_file_info(FileSelector(root.path, allow_not_found=True))
    return [name for run in runs for name in Storage.at(URI, run.base_name).names("checkpoint_")]


def train(folder: Path, uri: str = URI) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=folder, env=store(uri), capture_output=True, text=True, timeout=600)


def test_killed_it_resumes_from_the_store_on_another_machine_and_ends_with_the_same_losses(
    s3: Any, trainable: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"  # a machine that shares nothing but the store
    shutil.copytree(trainable, other, symlinks=True)
    whole = build(tmp_path / "whole")
    short(whole)
    subprocess.run(COMMAND, cwd=whole, env=environment(), check=True, capture_output=True, timeout=600)
    first = subprocess.Popen(
        COMMAND, cwd=trainable, env=store(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: len(names()) > 1 or first.poll() is not None, "two checkpoints in the store")
    assert first.poll() is None, first.communicate()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert checkpoints(trainable) == []
    left = names()
    second = train(other)
    assert second.returncode == 0, second.stderr
    assert f"resuming from the checkpoint at step {int(left[-1].removeprefix('checkpoint_'))}" in second.stderr
    pd.testing.assert_frame_equal(history(whole / "out"), history(other / "out"), check_exact=True)
    expected, resumed = (load_file(folder / "out" / "weights.safetensors") for folder in (whole, other))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert names() == []  # deleted when the stage is done


def test_a_store_that_cannot_be_used_is_told_before_the_training_and_one_that_goes_away_with_what_is_left(
    s3: Any, trainable: Path, edit: Any
) -> None:
    missing = train(trainable, "s3://no-bucket/of/mine")
    assert missing.returncode == 2
    assert "error: the checkpoints in s3://no-bucket/of/mine/" in missing.stderr
    assert "'no-bucket' not found" in missing.stderr
    unknown = train(trainable, "nowhere://bucket")
    assert unknown.returncode == 2
    assert "error: the storage nowhere://... cannot be used" in unknown.stderr
    for key in ("steps", "validate_every"):
        edit(trainable, f"recipes.model.{key}", 3000)
    first = subprocess.Popen(
        COMMAND, cwd=trainable, env=store(), start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: bool(names()) or first.poll() is not None, "a checkpoint in the store")
    set_free_requests(s3, "0")  # as when a key expires; a server that is gone is tried for seconds at each call
    _, said = first.communicate(timeout=300)
    assert first.returncode == 2, said
    assert "error: the checkpoints in s3://bucket/of/mine/" in said
    assert "AWS Error" in said
    assert "the same command resumes from the last checkpoint there" in said
    assert "Traceback" not in said
    refused = train(trainable)
    assert refused.returncode == 2
    assert "ACCESS_DENIED" in refused.stderr
