"""Processes of Ray that are killed, and clusters that refuse this process: one sentence each."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime import cluster
from tests.pipeline.conftest import ROOT, environment, run
from tests.pipeline.runtime.test_surroundings import CONNECT, python

KILLED = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}  # the machine itself uses more
TRAIN = "python -m pipeline.train --row kuka-canvasmar --clips data/clips/kuka --latents data/latents/kuka-vae"
TRAIN += " --autoencoder data/autoencoders/kuka-vae --start presets/random-weights --out data/models/again"
HEAD = """
import time, ray
ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20, num_cpus=1)
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(500)
"""


def test_a_killed_process_says_what_to_do_and_an_error_of_python_keeps_its_traceback() -> None:
    errors = cluster.ray.exceptions
    full = cluster.death_message(errors.OutOfMemoryError("x"), "lower micro_batch")
    assert full == (
        "Ray stopped workers because a machine's memory was nearly full; lower micro_batch or use a machine with more "
        "memory, then run the same command again"
    )
    wrapped = RuntimeError("a worker")
    wrapped.health_check_failure = errors.OutOfMemoryError("x")  # type: ignore[attr-defined]
    assert cluster.death_message(wrapped, "lower micro_batch") == full
    for error in (errors.ActorDiedError(), errors.WorkerCrashedError(), errors.LocalRayletDiedError()):
        assert "a process of Ray died without an error of Python" in str(cluster.death_message(error))
    for error in (ValueError("x"), errors.RaySystemError("x")):
        assert cluster.death_message(error) is None


@pytest.mark.faults
def test_a_training_that_ray_stops_because_memory_is_full_is_one_sentence_and_goes_on_later(
    journey: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(journey, tmp_path / "copy", symlinks=True))
    killed = subprocess.run(
        TRAIN.split(), cwd=folder, env=environment() | KILLED, capture_output=True, text=True, timeout=600
    )
    assert killed.returncode == 2
    (line,) = killed.stderr.splitlines()
    assert line.startswith("error: Ray stopped workers because a machine's memory was nearly full; lower micro_batch")
    run(folder, *TRAIN.split())


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster that listens on loopback and has another token."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with subprocess.Popen(
        (sys.executable, "-c", HEAD), cwd=tmp_path, env=environment() | own, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.faults
def test_a_cluster_that_refuses_the_token_or_listens_elsewhere_is_one_sentence_at_once(
    head: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    token = {"RAY_ADDRESS": head, "RAY_AUTH_TOKEN": "b" * 64}
    said = python(tmp_path, CONNECT, **token, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    assert said.startswith(
        f"the Ray cluster at RAY_ADDRESS={head} refuses the token of this process; set RAY_AUTH_TOKEN"
    )
    said = python(tmp_path, CONNECT, **token)
    assert said.startswith(f"the Ray cluster at RAY_ADDRESS={head} listens on loopback only, but Ray looks for it at ")
    assert time.monotonic() - began < 60
    said = python(tmp_path, CONNECT, **token | {"RAY_AUTH_TOKEN": "a" * 64}, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    assert said == "works"


@pytest.mark.faults
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one CPU")
def test_ray_gets_the_cpus_that_the_process_may_use(tmp_path: Path) -> None:
    count = 'cluster.ray.cluster_resources()["CPU"]'
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += CONNECT.replace('cluster.ray.get(cluster.ray.remote(lambda: "works").remote())', count)
    assert python(tmp_path, code, PYTHONPATH=str(ROOT)) == "1.0"
