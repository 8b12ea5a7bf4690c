"""A training through Ray that is killed, goes on, or runs on more workers ends with the same model."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from components.data import latents
from tests.pipeline.conftest import environment, run

pytestmark = pytest.mark.slow
TRAIN = ("python", "-m", "pipeline.train", "--row", "kuka-canvasmar", "--latents", "latents", "--out")


@pytest.fixture
def trainable(project: Path, edit) -> Path:
    """A project with moments to train on, and a recipe of some tens of steps."""
    torch.manual_seed(0)
    reports = [latents.write_shard(project / "latents", s, 0, torch.randn(16, 5, 8, 4, 4)) for s in ("train", "val")]
    latents.finish(project / "latents", reports, latents.LatentKey(autoencoder="a", clips="b", settings={}))
    for key, value in {"steps": 60, "batch": 4, "checkpoint_every": 20, "log_every": 1, "precision": "float32"}.items():
        edit(project, f"recipes.model.{key}", value)
    return project


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def test_killed_and_started_again_it_ends_with_the_same_weights(trainable):
    run(trainable, *TRAIN, "whole")
    driver = subprocess.Popen(
        (*TRAIN, "resumed"), cwd=trainable, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((trainable / ".state" / "training").glob("*/checkpoint_*")):
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert list((trainable / ".state" / "training").glob("*/checkpoint_*")), "no checkpoint was written in time"
    assert not (trainable / "resumed").exists()
    run(trainable, *TRAIN, "resumed")
    whole, resumed = (load_file(trainable / name / "weights.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    pd.testing.assert_frame_equal(history(trainable / "whole"), history(trainable / "resumed"), check_exact=True)


def test_two_workers_with_a_clip_at_a_time_follow_the_same_losses_as_one(trainable, edit):
    run(trainable, *TRAIN, "one")
    edit(trainable, "recipes.model.workers", 2)
    edit(trainable, "recipes.model.micro_batch", 1)
    run(trainable, *TRAIN, "two")
    one, two = history(trainable / "one"), history(trainable / "two")
    assert one["step"].tolist() == two["step"].tolist()
    # each worker logs the loss of its own half of the batch; the gradient and the model after it are shared
    torch.testing.assert_close(
        torch.tensor(one["gradient_norm"].to_numpy()),
        torch.tensor(two["gradient_norm"].to_numpy()),
        rtol=1e-2,
        atol=1e-3,
    )
    last = [frame["validation_loss"].dropna().iloc[-1] for frame in (one, two)]
    assert last[0] == pytest.approx(last[1], rel=1e-3)


def test_changed_parameters_do_not_go_on_from_an_old_checkpoint(trainable, edit):
    run(trainable, *TRAIN, "first")
    edit(trainable, "recipes.model.seed", 1)
    run(trainable, *TRAIN, "second")
    first, second = history(trainable / "first"), history(trainable / "second")
    assert second["step"].iloc[0] == 1
    assert first["loss"].iloc[0] != second["loss"].iloc[0]
