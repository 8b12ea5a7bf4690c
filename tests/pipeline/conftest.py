"""A whole project in a temporary folder: this code, tiny parameters, moving shapes."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.foundation.settings import presets

ROOT = Path(__file__).parents[2]
# runs the code of the current folder, or else of PYTHONPATH; the installed script runs the code that pip knows
CANVASMAR = (sys.executable, "-m", "pipeline.commands.cli")
# the words of a training on the moments of `write_latents`, without the value of --out
TRAIN = (
    *("-m", "pipeline.train", "--row", "kuka-canvasmar", "--clips", "clips/kuka", "--latents", "latents"),
    *("--autoencoder", "vae", "--start", "presets/random-weights", "--out"),
)
CODE = (
    "components",
    "pipeline",
    "presets/random-weights",
    "dvc.yaml",
    "params.yaml",
    ".dvcignore",
    ".gitignore",
    "pyproject.toml",
)


def tiny(params: dict[str, Any]) -> dict[str, Any]:
    """Return the default parameters with the smallest sizes that still use every mechanism."""
    world = params["simulations"]["kuka"]
    world |= {
        "kind": "shapes",
        "episodes": {"train": 12, "val": 4, "test": 8},
        "frames": 18,
        "resolution": [32, 32],
        "objects": [1, 2],
    }
    params["datasets"]["kuka"] |= {"resolution": [32, 32], "shard": 4}
    params["autoencoders"]["kuka-vae"] |= {"resolution": [32, 32], "width": 16, "depth": 1, "channels": 4}
    for model in params["models"].values():
        model["latent"] = [4, 4, 4]
        for part in ("temporal", "canvas", "spatial"):
            if model[part]:
                model[part] |= {"width": 32, "heads": 2, "layers": 2}
        model["head"] |= {"width": 32, "layers": 1}
    for recipe in params["recipes"].values():
        recipe |= {"steps": 6, "batch": 2, "log_every": 2, "validate_every": 3, "checkpoint_every": 3, "warmup": 1}
    for sampler in params["samplers"].values():
        sampler |= {"flow_steps": 2, "sets": 2}
    for search in params["searches"].values():
        search |= {"trials": 2, "clips": 2, "unseen": 2}
    params["ablations"]["sets"] = {
        "dataset": "kuka",
        "autoencoder": "kuka-vae",
        "experiment": "kuka-canvasmar",
        "baseline": "kuka-no-canvas",
        "sampler": "no-canvas",
        "protocol": "kuka",
        "along": "sets",
        "concurrent": 1,
        "arms": {
            name: {"experiment": f"kuka-{row}", "space": {"sets": [2, 4]}, "against": against}
            for name, row, against in (("without", "no-canvas", None), ("with", "canvasmar", "without"))
        },
    }
    params["protocols"]["kuka"] |= {"clips": 4, "frames": 9, "resolution": 32, "resamples": 0}
    return params


def build(folder: Path) -> Path:
    """A project of its own under git and DVC, with tiny parameters; downloads of public weights are shared."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    params = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (folder / "mlruns").mkdir()
    (folder / "mlruns" / ".gitignore").write_text("*\n", encoding="utf-8")
    (ROOT / ".state" / "downloads").mkdir(parents=True, exist_ok=True)
    (folder / ".state").mkdir()
    (folder / ".state" / "downloads").symlink_to(ROOT / ".state" / "downloads")
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.email", "nobody@example.org")
    run(folder, "git", "config", "user.name", "nobody")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "tiny")
    return folder


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def exposed(pid: int) -> list[tuple[str, int]]:
    """Return the addresses and ports, except loopback, on which a process and its descendants listen."""
    family = psutil.Process(pid)
    found = [
        connection.laddr
        for process in (family, *family.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert found, "no process listens"
    return [(place.ip, place.port) for place in found if not is_loopback(place.ip)]


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def environment() -> dict[str, str]:
    """Return the environment of a user's shell: few variables, with this interpreter's programs first on PATH."""
    kept = ("HOME", "LANG", "RAY_worker_niceness", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "PIP_FIND_LINKS")
    inherited = {name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")}
    return {**inherited, "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the project, as a user would."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1500)
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} left with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Restore Python's SIGINT handler: a shell that runs the tests in the background sets SIGINT to be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a new project in which nothing has run."""
    return build(tmp_path / "project")


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `dvc repro` has run once; tests must leave it as it is, or copy it.

    Processes that test side by side have one between them.
    """
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "journey"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed
        if not (place / "done").exists():
            run(build(place / "project"), "dvc", "repro")
            (place / "done").touch()
    return place / "project"


def set_value(folder: Path, path: str, value: Any) -> None:
    """Set one value of a project's params.yaml by its dotted path."""
    file = folder / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    place = params
    for name in parents:
        place = place[name]
    place[last] = value
    file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.fixture
def edit() -> Callable[[Path, str, Any], None]:
    """`set_value`, for a test's own project."""
    return set_value
