"""Users without a home or a name, long temporary folders, stale addresses, no loopback, and ports in use."""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from components.foundation.errors import InputError
from pipeline.runtime import cluster, network
from tests.pipeline.conftest import CANVASMAR, ROOT, environment, free_port

CONNECT = """
import sys
from pathlib import Path
from components.foundation.errors import InputError
from pipeline.runtime import cluster
try:
    with cluster.connect(Path.cwd()):
        print(cluster.ray.get(cluster.ray.remote(lambda: "works").remote()))
except InputError as error:
    print(error)
"""


def in_namespace(*options: str) -> tuple[str, ...]:
    """The command that runs another one as another user or in another network; skips if this machine forbids it."""
    command = ("unshare", "--user", *options)
    if shutil.which("unshare") is None or subprocess.run((*command, "true"), capture_output=True).returncode:
        pytest.skip("this machine allows no namespaces")
    return command


def python(folder: Path, code: str, *before: str, **variables: str) -> str:
    """What the code prints last in a shell with these variables and no HOME."""
    shell = {name: value for name, value in environment().items() if name != "HOME"}
    done = subprocess.run(
        (*before, sys.executable, "-c", code), cwd=folder, capture_output=True, text=True, timeout=500,
        env=shell | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", "set it to HOST:PORT"),
        ("host:port", "set it to HOST:PORT"),
        ("127.0.0.1:65536", "set it to HOST:PORT"),
        ("http://127.0.0.1:8265", "set it to HOST:PORT"),
        ("127.0.0.1:{port}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port} (Connection refused)"),
        ("ray://127.0.0.1:{port}", "no Ray cluster answers at RAY_ADDRESS=ray://127.0.0.1:{port} (Connection refused)"),
    ],
)
def test_a_wrong_ray_address_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
    with pytest.raises(InputError, match="unset it") as caught, cluster.connect(tmp_path):
        pass
    assert words.format(port=port) in str(caught.value)


def test_a_server_at_ray_address_that_is_no_cluster_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_port}")
        with (
            pytest.raises(InputError, match="is not the head of a Ray cluster; set RAY_ADDRESS to its HOST:PORT"),
            cluster.connect(tmp_path),
        ):
            pass
        server.shutdown()


def test_a_server_at_ray_address_that_says_nothing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        words = f"no Ray cluster answers at RAY_ADDRESS={address} (timed out)"
        with pytest.raises(InputError, match=re.escape(words)), cluster.connect(tmp_path):
            pass


@pytest.mark.faults
def test_the_head_of_a_ray_cluster_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with cluster.connect(tmp_path):
        network.require_cluster(cluster.ray.get_runtime_context().gcs_address)


def test_without_a_loopback_interface_a_sentence_comes_before_ray(tmp_path: Path) -> None:
    said = python(tmp_path, CONNECT, *in_namespace("--map-root-user", "--net"))
    assert said.startswith("this machine cannot connect to itself at 127.0.0.1 (")


def test_a_user_without_a_home_and_a_name_has_an_environment(tmp_path: Path) -> None:
    code = "import os\nfrom pathlib import Path\nfrom pipeline.runtime import environment\n"
    code += "environment.apply(Path.cwd())\nprint(len(os.environ['RAY_AUTH_TOKEN']))"
    assert python(tmp_path, code, *in_namespace("--map-user=12345")) == "64"


@pytest.mark.faults
def test_ray_works_for_a_user_without_a_home_and_a_name_and_in_a_long_temporary_folder(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    assert python(tmp_path, CONNECT, *in_namespace("--map-user=12345"), TMPDIR=str(long)) == "works"


def test_a_temporary_folder_is_replaced_only_if_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    longest = network.LONGEST_SOCKET - len(network.SESSION)
    for length, found in ((longest, None), (longest + 1, "/tmp/ray")):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            long = Path(folder, "x" * (length - len(folder) - 1))
            long.mkdir()
            monkeypatch.setenv("TMPDIR", str(long))
            assert network.temporary_folder() == found


TEMPORARY = """
from components.foundation.errors import InputError
from pipeline.runtime import network
try:
    print(network.temporary_folder())
except InputError as error:
    print(error)
"""


def test_a_temporary_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    ours = in_namespace("--map-user=12345")
    folder = tmp_path if len(str(tmp_path)) < 20 else Path(tempfile.mkdtemp(dir="/tmp"))
    assert python(tmp_path, TEMPORARY, *ours, RAY_TMPDIR=str(folder)) == "None"
    (folder / "ray").mkdir(0o555)  # as Ray's folder of another user is to us
    assert python(tmp_path, TEMPORARY, *ours, RAY_TMPDIR=str(folder)) == f"{folder}/ray-12345"
    folder.chmod(0o555)
    said = python(tmp_path, TEMPORARY, *ours, RAY_TMPDIR=str(folder))
    assert said == f"the temporary folder {folder} does not exist or is not writable; set RAY_TMPDIR to one that is"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        (("serve", "--row", "a", "--port", "{port}"), {}, "port {port} of this machine cannot be used (Address"),
        (("ui",), {"MLFLOW_UI_PORT": "{port}"}, "port {port} of this machine cannot be used (Address already in use"),
        (("ui",), {"MLFLOW_UI_PORT": "http"}, "MLFLOW_UI_PORT is 'http'; set it to a port"),
        (("serve", "--row", "a", "--port", "{free}", "--device", "cuda"), {}, "torch cannot use the device cuda"),
    ],
)
def test_a_server_that_cannot_start_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"port": taken.getsockname()[1], "free": free_port()}
        command = (*CANVASMAR, *(word.format(**values) for word in words))
        shell = environment() | {"PYTHONPATH": str(ROOT)} | {k: v.format(**values) for k, v in variables.items()}
        done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sentence.format(**values)}")


NEVER_READY = """
import time, types
from pipeline.runtime import cluster  # before Ray, whose environment it sets
import ray._private.node, ray._private.services

def not_yet(*arguments):
    ray._private.node.time = types.SimpleNamespace(sleep=time.sleep, monotonic=lambda: time.monotonic() + 31)
    raise RuntimeError("the node has not registered")

ray._private.services.get_node = not_yet
"""


def test_a_machine_too_busy_for_ray_is_one_sentence(tmp_path: Path) -> None:
    assert python(tmp_path, NEVER_READY + CONNECT).startswith(
        "Ray did not start in 3 times 30 s, because this machine is busy"
    )


READY_AT_LAST = """
import time, types
from pipeline.runtime import cluster  # before Ray, whose environment it sets
import ray._private.node, ray._private.services

get_node, late = ray._private.services.get_node, types.SimpleNamespace(
    sleep=time.sleep, time=time.time, monotonic=lambda: time.monotonic() + 31
)

def not_yet(*arguments, **named):
    ray._private.node.time, ray._private.services.get_node = late, ready
    raise RuntimeError("the node has not registered")

def ready(*arguments, **named):
    ray._private.node.time = time
    return get_node(*arguments, **named)

ray._private.services.get_node = not_yet
"""


@pytest.mark.faults
def test_ray_is_started_again_if_a_busy_machine_took_too_long(tmp_path: Path) -> None:
    assert python(tmp_path, READY_AT_LAST + CONNECT) == "works"
