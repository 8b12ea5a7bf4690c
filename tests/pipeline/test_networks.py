"""Two nodes with a network of their own each, joined by a cable, as machines are: no loopback that both would share."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from components.datasets import clips
from tests.pipeline.conftest import CANVASMAR, TRAIN, free_port, run
from tests.pipeline.runtime.test_clusters import Cluster, end, runs, wait_for
from tests.pipeline.untrained import write_latents

pytestmark = pytest.mark.faults
HOSTS = {"left": "10.213.7.1", "right": "10.213.7.2"}
PORT = 6399


@dataclass
class Machines(Cluster):
    """A cluster whose nodes are in different networks and have different disks at one place."""

    def disk(self, name: str) -> Path:
        """The same path on every host, as Ray expects; what lies there is the host's."""
        return self.folder / "t"

    def at(self, name: str) -> tuple[str, ...]:
        """The words before a command that is to find this host's network and disk."""
        own, place = self.folder / name, self.disk(name)
        for folder in (own, place):
            folder.mkdir(exist_ok=True)
        mounted = ("unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", own, place)
        return (*inside(name), *map(str, mounted))

    def start(self, name: str, *words: str) -> None:
        """On the host of this name."""
        super().start(name, *words, "--node-ip-address", HOSTS[name], on=self.at(name))

    def serve_runs(self, name: str) -> str:
        """Starts an MLflow server on the host of this name; its address."""
        port, runs = free_port(), self.folder / "runs"
        kept = ("--backend-store-uri", f"sqlite:///{runs}.db", "--artifacts-destination", str(runs))
        told = self.folder / "server.log"
        command = (*inside(name), "mlflow", "server", "--host", HOSTS[name], "--port", str(port), "--workers", "1")
        with told.open("w") as log:
            started = subprocess.Popen(
                (*command, "--allowed-hosts", "*", *kept), env=self.shell(), stdout=log, stderr=log
            )
        self.nodes.append(psutil.Process(started.pid))
        wait_for(lambda: "startup complete" in told.read_text() or started.poll(), "the start of MLflow")
        assert started.poll() is None, told.read_text()[-2000:]
        return f"http://{HOSTS[name]}:{port}"


def inside(host: str) -> tuple[str, ...]:
    """The words before a command that needs this host's network alone."""
    return ("ip", "netns", "exec", f"{host}-{os.getpid()}")


def ip(words: str) -> bool:
    return subprocess.run(("ip", *words.split()), capture_output=True).returncode == 0


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two hosts on which nothing runs yet."""
    left, right = (inside(host)[-1] for host in HOSTS)
    if shutil.which("ip") is None or not ip(f"netns add {left}"):
        pytest.skip("this machine does not let us make networks: it takes root and iproute2")
    try:
        with tempfile.TemporaryDirectory(prefix="n", dir="/tmp", ignore_cleanup_errors=True) as folder:
            made = Machines(Path(folder), port=PORT)
            cable = f"link add cable netns {left} type veth peer name cable netns {right}"
            assert ip(f"netns add {right}")
            assert ip(cable)
            for host, name in zip(HOSTS, (left, right), strict=True):
                assert ip(f"-n {name} addr add {HOSTS[host]}/24 dev cable")
                assert all(ip(f"-n {name} link set {device} up") for device in ("lo", "cable"))
            try:
                yield made
            finally:
                for node in made.nodes:
                    if node.is_running():
                        end(node)
    finally:
        for name in (left, right):
            ip(f"netns delete {name}")


def losses(folder: Path, out: str) -> pd.Series:
    return pd.read_csv(folder / out / "history.csv")["loss"]


def test_workers_on_two_machines_follow_the_losses_of_one(machines, project, edit):
    machines.start("left", "--head", "--port", str(PORT), "--num-cpus", "1", "--include-dashboard", "false")
    machines.start("right", "--address", f"{HOSTS['left']}:{PORT}", "--num-cpus", "1")
    write_latents(project / "latents", project / "vae")
    for key, value in {"steps": 20, "batch": 4, "log_every": 1, "precision": "float32"}.items():
        edit(project, f"recipes.model.{key}", value)
    run(project, sys.executable, *TRAIN, "one")
    edit(project, "recipes.model.workers", 2)
    done = subprocess.run(
        (*machines.at("left"), sys.executable, *TRAIN, "two"), cwd=project, capture_output=True, text=True,
        env=machines.shell(RAY_ADDRESS=f"{HOSTS['left']}:{PORT}"), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert losses(project, "two").tolist() == pytest.approx(losses(project, "one").tolist(), rel=1e-4)


def test_code_alone_runs_on_another_machine_and_its_outputs_come_home(machines, project):
    run(project, "dvc", "remote", "add", "--default", "store", str(machines.folder / "store"))
    place = ("--dashboard-host", "127.0.0.1", "--dashboard-port", str(machines.dashboard))
    machines.start("left", "--head", "--port", str(PORT), "--num-cpus", "0", *place)
    machines.start("right", "--address", f"{HOSTS['left']}:{PORT}", "--num-cpus", "2")
    store = machines.serve_runs("left")
    submit = (*inside("left"), *CANVASMAR, "submit", "--code-only", "--python", sys.executable)
    done = subprocess.run(
        (*submit, "--cpus", "2", "preprocess@kuka"), cwd=project, capture_output=True, text=True,
        env=machines.shell(MLFLOW_TRACKING_URI=store), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
    assert "dvc.lock and metrics are updated" in done.stdout
    assert not (project / "data").exists()
    run(project, "dvc", "pull", "simulate@kuka", "preprocess@kuka")
    assert clips.Clips.open(project / "data" / "clips" / "kuka", "train").hash
    assert "up to date" in run(project, "dvc", "status", "preprocess@kuka").stdout
    (made,) = runs(machines.folder / "runs.db", "preprocess")
    assert made.info.status == "FINISHED"
