"""A real cluster of a head and two nodes, each in processes of its own, and jobs submitted to it as a user would."""

import os
import pty
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from tests.pipeline.conftest import CANVASMAR, environment, free_port, run
from tests.pipeline.untrained import write_latents

pytestmark = pytest.mark.faults
ROWS = ("kuka-canvasmar", "kuka-no-canvas")


def wait_for(happened: Callable[[], Any], what: str, seconds: float = 900) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.1)
    return found


def end(process: psutil.Process) -> None:
    """Kills a process and all below it, at once."""
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


@dataclass
class Cluster:
    """What `ray start` has started here."""

    folder: Path
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: list[psutil.Process] = field(default_factory=list)

    def shell(self, **more: str) -> dict[str, str]:
        signed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "OMP_NUM_THREADS": "1"}
        patient = {"RAY_raylet_start_wait_time_s": "300", "RAY_worker_register_timeout_seconds": "300"}
        return {
            **environment(),
            **signed,
            **patient,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            **more,
        }

    def disk(self, name: str) -> Path:
        """Where the node of this name keeps its own files."""
        return self.folder / name

    def start(self, name: str, *words: str, on: tuple[str, ...] = ()) -> None:
        ports = ("--dashboard-agent-listen-port", str(free_port()), "--min-worker-port", "0", "--max-worker-port", "0")
        size = ("--object-store-memory", "100000000", "--disable-usage-stats", "--block")
        told = self.folder / f"{name}.log"
        command = (*on, "ray", "start", *words, "--temp-dir", str(self.disk(name)), *ports, *size)
        with told.open("w") as log:
            started = subprocess.Popen(command, env=self.shell(), stdout=log, stderr=log, cwd=self.folder)
        self.nodes.append(psutil.Process(started.pid))
        wait_for(lambda: "Ray runtime started" in told.read_text() or started.poll(), f"the start of {name}")
        assert started.poll() is None, told.read_text()[-2000:]

    def submit(self, project: Path, *words: str, **more: str) -> subprocess.Popen[str]:
        command = (*CANVASMAR, "submit", *words)
        return subprocess.Popen(
            command, cwd=project, env=self.shell(**more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    text, _ = process.communicate(timeout=900)
    assert process.returncode == status, text[-4000:]
    return text


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        client = ("--ray-client-server-port", str(free_port()))
        place = ("--dashboard-host", "127.0.0.1", "--dashboard-port", str(made.dashboard))
        try:
            made.start("h", "--head", "--port", str(made.port), "--num-cpus", "0", *place, *client)
            for name in ("a", "b"):
                made.start(name, "--address", f"127.0.0.1:{made.port}", "--num-cpus", "1")
            yield made
        finally:
            for node in made.nodes:
                if node.is_running():
                    end(node)


@pytest.fixture
def short(project: Path, edit: Callable[[Path, str, Any], None]) -> Path:
    """A project of three stages: videos, clips, and a training on moments that lie there."""
    data = project / "data"
    write_latents(data / "latents" / "kuka-vae", data / "autoencoders" / "kuka-vae", frames=9)
    content = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    content["stages"] = {name: content["stages"][name] for name in ("simulate", "preprocess", "train")}
    (project / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    for key, value in {"steps": 3000, "checkpoint_every": 100, "log_every": 20, "validate_every": 3000}.items():
        edit(project, f"recipes.model.{key}", value)
    edit(project, "prices", {"currency": "EUR", "cpu_hour": 0.5, "gpu_hour": 2.0})
    return project


def runs(database: Path, stage: str) -> list[Any]:
    client = MlflowClient(f"sqlite:///{database}")
    found = client.get_experiment_by_name("canvasmar")
    return client.search_runs([found.experiment_id], f"tags.stage = '{stage}'")


def training_node(cluster: Cluster) -> psutil.Process | None:
    """The node on which a training works."""
    for node in cluster.nodes[1:]:
        if node.is_running() and any("RayTrainWorker" in " ".join(one.cmdline()) for one in node.children(True)):
            return node
    return None


def train_on(cluster: Cluster, project: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A training on the cluster whose driver runs here, and the file of what it says."""
    words = ("-m", "pipeline.train", "--row", ROWS[0], "--clips", "data/clips/kuka", "--latents",
             "data/latents/kuka-vae", "--autoencoder", "data/autoencoders/kuka-vae",
             "--start", "presets/random-weights", "--out", "trained")  # fmt: skip
    said = project / "said.txt"
    with said.open("w") as log:
        training = subprocess.Popen(
            (sys.executable, *words), cwd=project, env=cluster.shell(RAY_ADDRESS=f"127.0.0.1:{cluster.port}"),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return training, said


def workers(cluster: Cluster) -> int:
    """How many workers train on the cluster."""
    found = 0
    for one in psutil.process_iter():
        with suppress(psutil.Error):  # it may end while it is looked at
            raylet = one.parent()
            mine = raylet is not None and any(str(cluster.folder) in word for word in raylet.cmdline())
            found += mine and "RayTrainWorker" in " ".join(one.cmdline())
    return found


def test_a_killed_driver_ends_its_training_and_not_the_cluster(cluster, short, edit):
    for key, value in {"checkpoint_every": 5, "log_every": 5}.items():
        edit(short, f"recipes.model.{key}", value)
    training, said = train_on(cluster, short)
    states = short / ".state" / "cache" / "training"
    wait_for(lambda: list(states.glob("*/checkpoint_[0-9]*")) or training.poll() is not None, "the first checkpoint")
    assert workers(cluster) == 1, said.read_text()
    training.kill()
    training.wait()
    wait_for(lambda: workers(cluster) == 0, "the end of the worker", 10)
    assert all(node.is_running() for node in cluster.nodes)


def test_jobs_on_shared_storage_outlive_a_node_and_do_not_disturb_each_other(cluster, short, edit):
    told = finish(cluster.submit(short, "--list", RAY_AUTH_TOKEN="0" * 64), 2)
    assert told.strip().endswith("rejects your token; set RAY_AUTH_TOKEN to the cluster's token, or copy "
                                 "~/.ray/auth_token from the head node to this machine")  # fmt: skip
    told = finish(cluster.submit(short, "--check", "--root", str(short / "none")), 2)
    assert "does not run on the cluster" in told
    told = finish(cluster.submit(short, "preprocess@kuka"))
    assert "the cluster has 2 CPUs and 0 GPUs" in told
    assert "preprocess@kuka: done in" in told
    (made,) = runs(short / "mlruns" / "mlflow.db", "preprocess")
    assert made.info.status == "FINISHED"
    assert made.data.metrics["node_seconds"] >= 1.9 * made.data.metrics["stage_seconds"]  # the driver's, and a node
    assert made.data.metrics["cost_EUR"] == pytest.approx(0.5 * made.data.metrics["cpu_hours"])

    states = short / ".state" / "cache" / "training"
    entries: set[Path] = set()  # a finished training removes its entry

    def trainings() -> int:
        entries.update(states.glob("*.json"))
        return len(entries)

    first = cluster.submit(short, f"train@{ROWS[0]}")
    wait_for(trainings, "the first training")  # DVC lets one job at a time check shared stages
    second = cluster.submit(short, f"train@{ROWS[1]}")
    wait_for(lambda: trainings() == 2, "the second training")
    wait_for(lambda: list(states.glob("*/checkpoint_[0-9]*")), "the first checkpoint")
    second.send_signal(signal.SIGINT)  # while its job still trains, or waits for a node
    left = finish(second, 130)
    name = next(line.split()[1].rstrip(";") for line in left.splitlines() if line.startswith("  job "))
    assert f"{name} keeps running; `canvasmar submit --follow {name}` shows its log" in left
    end(wait_for(lambda: training_node(cluster), "a training on a node"))
    finish(first)
    finish(cluster.submit(short, "--follow", name))
    assert "up to date" in run(short, "dvc", "status", *(f"train@{row}" for row in ROWS)).stdout
    trained = runs(short / "mlruns" / "mlflow.db", "train")
    assert {one.info.status for one in trained} == {"FINISHED"}
    assert all(one.data.metrics["cpu_hours"] > 0 for one in trained)
    assert all((short / "data" / "models" / row / "weights.safetensors").exists() for row in ROWS)

    edit(short, "recipes.model.steps", 30_000)
    name, status = at_a_terminal(cluster, short, f"train@{ROWS[0]}", "s")
    assert status == 130
    wait_for(lambda: "STOPPED" in finish(cluster.submit(short, "--status", name)), "the stop")
    assert "nothing to stop" in finish(cluster.submit(short, "--stop", name))
    assert "has no job nobody" in finish(cluster.submit(short, "--status", "nobody"), 2)
    states = [line.split()[1] for line in finish(cluster.submit(short, "--list")).splitlines() if "look" not in line]
    assert sorted(set(states)) == ["STOPPED", "SUCCEEDED"]


def test_a_training_waits_for_nodes_that_are_gone_and_grows_with_those_that_come(cluster, short, edit):
    for key, value in {"workers": [1, 2], "steps": 100_000, "log_every": 10}.items():
        edit(short, f"recipes.model.{key}", value)
    for node in cluster.nodes[1:]:
        if node.is_running():
            end(node)
    cluster.start("c", "--address", f"127.0.0.1:{cluster.port}", "--num-cpus", "1")
    training, said = train_on(cluster, short)

    def steps() -> int:
        found = (short / ".state" / "cache" / "training").glob("*/checkpoint_[0-9]*")
        return max((int(path.name.removeprefix("checkpoint_")) for path in found), default=0)

    try:
        wait_for(steps, "the first checkpoint")
        end(cluster.nodes[-1])
        wait_for(
            lambda: "nodes were lost: the cluster has resources for 0 of at least 1 workers" in said.read_text(),
            "the sentence",
        )
        reached = steps()
        for name in ("d", "e"):
            cluster.start(name, "--address", f"127.0.0.1:{cluster.port}", "--num-cpus", "1")
        wait_for(lambda: workers(cluster) == 2, "a training on both")
        assert "the cluster has resources for the workers again" in said.read_text()
        wait_for(lambda: steps() > reached, "a checkpoint more")
        training.send_signal(signal.SIGINT)
        assert training.wait(timeout=300) == 130, said.read_text()[-4000:]
        wait_for(lambda: workers(cluster) == 0, "the end of the workers")
    finally:
        training.kill()


def at_a_terminal(cluster: Cluster, project: Path, target: str, answer: str) -> tuple[str, int]:
    """Submits, presses Ctrl-C once the job runs, and answers the question; the job and the status."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(project)
        os.execve(sys.executable, [*CANVASMAR, "submit", target], cluster.shell())
    text = ""

    def read_until(words: str) -> None:
        nonlocal text
        while words not in text:
            text += os.read(terminal, 4096).decode()

    read_until(f"{target}: begins")
    os.write(terminal, b"\x03")
    read_until("stop the job (s), or leave it running (Enter)? ")
    os.write(terminal, f"{answer}\n".encode())
    read_until("is stopping")
    _, status = os.waitpid(child, 0)
    name = next(line.split()[1].rstrip(";") for line in text.splitlines() if line.startswith("  job "))
    return name, os.waitstatus_to_exitcode(status)
