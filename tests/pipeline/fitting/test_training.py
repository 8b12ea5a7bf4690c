"""A training through Ray that is killed, goes on, or runs on more workers ends with the same model."""

import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from components.datasets import latents, shards
from components.datasets.loading import sample_ids
from components.foundation.files import sha256
from tests.pipeline.conftest import TRAIN, build, environment, free_port, run, set_value
from tests.pipeline.untrained import write_latents

pytestmark = pytest.mark.faults


@pytest.fixture
def trainable(project: Path) -> Path:
    """A project with moments to train on, and a recipe of some tens of steps."""
    return with_moments(project)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of such a project leaves that nobody disturbs."""
    folder = with_moments(build(tmp_path_factory.mktemp("whole") / "project"))
    run(folder, "python", *TRAIN, "out")
    return folder / "out"


def with_moments(project: Path) -> Path:
    write_latents(project / "latents", project / "vae")
    changes = {"steps": 60, "batch": 4, "log_every": 1, "validate_every": 20, "precision": "float32"}
    for key, value in (changes | {"checkpoint_every": 20}).items():
        set_value(project, f"recipes.model.{key}", value)
    return project


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def begin(folder: Path, out: str) -> subprocess.Popen[str]:
    """A training in a session of its own, as a terminal would start it."""
    return subprocess.Popen(
        ("python", *TRAIN, out), cwd=folder, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / ".state" / "cache" / "training").glob("*/checkpoint_[0-9]*"))


def wait_for(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_interrupted_then_killed_then_damaged_it_ends_with_the_same_weights(trainable, whole, edit):
    first = begin(trainable, "resumed")
    lock = trainable / ".state" / "locks" / "train@kuka-canvasmar.lock"
    wait_for(lambda: lock.exists() and lock.read_text(encoding="utf-8") == f"{first.pid}\n", "the beginning")
    second = run(trainable, "python", *TRAIN, "resumed", check=False)
    assert second.returncode == 2
    assert f"train@kuka-canvasmar is already being run by process {first.pid};" in second.stderr
    wait_for(lambda: bool(checkpoints(trainable)), "a first checkpoint")
    below = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130
    assert "stopping with a checkpoint at the next logged step" in said
    assert psutil.wait_procs(below, timeout=30)[1] == []
    stopped = int(checkpoints(trainable)[-1].name.removeprefix("checkpoint_"))

    third = begin(trainable, "resumed")
    wait_for(lambda: int(checkpoints(trainable)[-1].name.removeprefix("checkpoint_")) > stopped, "a checkpoint more")
    os.kill(third.pid, signal.SIGKILL)
    third.communicate()
    assert not (trainable / "resumed").exists()

    edit(trainable, "recipes.model.seed", 1)  # a changed parameter does not go on from another's checkpoint
    run(trainable, "python", *TRAIN, "other")
    other = history(trainable / "other")
    assert other["step"].iloc[0] == 1
    assert other["loss"].iloc[0] != history(whole)["loss"].iloc[0]
    edit(trainable, "recipes.model.seed", 0)

    torn = checkpoints(trainable)[-1]
    flip(torn / "state.pt")
    (torn.parent / "checkpoint_manager_snapshot.json").write_text('{"ray_', encoding="utf-8")  # as after a lost machine
    last = run(trainable, "python", *TRAIN, "resumed")
    assert f"{torn.name} is damaged" in last.stderr
    assert "using the previous checkpoint instead" in last.stderr
    expected, resumed = (load_file(out / "weights.safetensors") for out in (whole, trainable / "resumed"))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    pd.testing.assert_frame_equal(history(whole), history(trainable / "resumed"), check_exact=True)
    assert checkpoints(trainable) == []


def test_it_goes_on_after_an_edit_of_what_shows_it_and_begins_again_after_one_of_what_trains(trainable):
    first = begin(trainable, "out")
    wait_for(lambda: bool(checkpoints(trainable)), "a first checkpoint")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()

    def edit(file: str, end: str) -> str:
        text = (trainable / file).read_text(encoding="utf-8")
        (trainable / file).write_text(text + end, encoding="utf-8")
        return text

    added = "\n\ndef added() -> int:\n    return 1\n"
    before = edit("components/training/optimizer.py", added)
    other = run(trainable, "python", *TRAIN, "other")
    assert "were written by other code and are not used" in other.stderr
    assert "resuming from the checkpoint" not in other.stderr
    assert history(trainable / "other")["step"].iloc[0] == 1
    (trainable / "components/training/optimizer.py").write_text(before + "# a comment\n", encoding="utf-8")
    edit("components/telemetry/progress.py", added)
    edit("components/reporting/page.py", added)
    assert "resuming from the checkpoint" in run(trainable, "python", *TRAIN, "out").stderr
    assert checkpoints(trainable) == []


def test_two_workers_that_share_the_model_and_of_which_one_is_killed_follow_the_same_losses_as_one(
    trainable, whole, edit
):
    for key, value in {"workers": [1, 2], "parallel": "fsdp", "micro_batch": 1}.items():
        edit(trainable, f"recipes.model.{key}", value)
    process = begin(trainable, "two")
    wait_for(lambda: bool(checkpoints(trainable)), "a first checkpoint")
    os.kill(workers_of(process)[-1].pid, signal.SIGKILL)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    one, two = history(whole), history(trainable / "two")
    assert one["step"].tolist() == two["step"].tolist()
    for name, tolerance in (("gradient_norm", 1e-2), ("loss", 1e-3), ("flow", 1e-3)):
        measured = (torch.tensor(frame[name].to_numpy()) for frame in (one, two))
        torch.testing.assert_close(*measured, rtol=tolerance, atol=1e-3)
    last = [frame["validation_loss"].dropna().iloc[-1] for frame in (one, two)]
    assert last[0] == pytest.approx(last[1], rel=1e-3)


class Server:
    """MLflow's own server of runs, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store, kept = f"sqlite:///{self.folder / 'runs.db'}", str(self.folder / "kept")
        words = ("server", "--backend-store-uri", store, "--artifacts-destination", kept, "--workers", "1")
        self.process = subprocess.Popen(
            (sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(self.port)),
            env=environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(self.answers, "the start of the server")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def test_a_server_of_runs_that_goes_away_for_a_while_misses_nothing_in_the_end(trainable, edit, tmp_path):
    edit(trainable, "recipes.model.steps", 600)
    edit(trainable, "recipes.model.validate_every", 50)
    server = Server(tmp_path)
    server.start()
    training = subprocess.Popen(
        ("python", *TRAIN, "out"), cwd=trainable, env=environment() | {"MLFLOW_TRACKING_URI": server.address},
        text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: bool(checkpoints(trainable)), "a first checkpoint")
        server.kill()
        gone = checkpoints(trainable)[-1]
        wait_for(lambda: checkpoints(trainable)[-1] != gone, "a checkpoint more while the server is gone")
        time.sleep(5)
        server.start()
        _, said = training.communicate(timeout=400)
        assert training.returncode == 0, said
        assert "cannot log" in said
        client = MlflowClient(server.address)
        found = client.search_runs([client.get_experiment_by_name("canvasmar").experiment_id], "tags.stage = 'train'")
        (one,) = found
        assert one.info.status == "FINISHED"
        logged = {metric.step: metric.value for metric in client.get_metric_history(one.info.run_id, "loss")}
        losses = history(trainable / "out").set_index("step")["loss"].dropna()
        assert logged == pytest.approx(losses.to_dict(), rel=1e-4)
        films = client.list_artifacts(one.info.run_id, "validation")
        assert [Path(film.path).stem for film in films] == [f"step-{step:07d}" for step in range(50, 601, 50)]
        assert "provenance" in {artifact.path for artifact in client.list_artifacts(one.info.run_id)}
        assert len(one.outputs.model_outputs) == 1
    finally:
        training.kill()
        server.kill()


def test_a_clip_that_is_not_finite_stops_two_workers_with_its_step_and_the_samples_of_both(trainable, edit):
    folder = trainable / "latents"
    manifest = shards.read_manifest(latents.LatentsManifest, folder)
    shard = next(shard for shard in manifest.shards if shard.split == "train")
    with (folder / shard.file).open("r+b") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header + 7 * 4 * 5 * 8 * 4 * 4)  # the first number of the seventh row, in float32
        file.write(struct.pack("<f", math.nan))
    told = shard.model_copy(update={"sha256": sha256(folder / shard.file)})  # a cache that was made so
    listed = tuple(told if one == shard else one for one in manifest.shards)
    shards.write_manifest(folder, manifest.model_copy(update={"shards": listed}))
    edit(trainable, "recipes.model.workers", 2)
    said = run(trainable, "python", *TRAIN, "out", check=False)
    assert said.returncode == 2
    found = re.search(r"the loss is not finite at step (\d) \(loss nan.*; samples \[(.*)\]\)", said.stderr)
    assert found, said.stderr
    (step,) = (s for s in range(4) if 7 in sample_ids(s, size=16, batch=4, seed=0))
    assert int(found[1]) == step + 1
    assert found[2] == ", ".join(map(str, sample_ids(step, size=16, batch=4, seed=0)))
