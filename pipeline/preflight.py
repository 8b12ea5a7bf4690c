"""Looks before a job is submitted: what would be uploaded, and whether the cluster has what the job needs."""

import configparser
import hashlib
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.errors import InputError

LARGEST_UPLOAD = 100 * 2**20  # bytes, what Ray's dashboard takes
LARGEST_SHOWN = 3
CODE = ("components", "pipeline", "dvc.yaml", "params.yaml")
EQUAL = ("python", "ray")  # versions that a job's cluster and its stages must share; others may differ
PACKAGES = ("ray", "torch", "mlflow", "dvc")
MARK = "@look "
STORE_SECONDS = 10.0
REMOTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A project's code in a zip file, and the files in it with their sizes."""

    content: bytes
    files: Mapping[str, int]

    def __str__(self) -> str:
        return f"{len(self.files)} files, {_mib(len(self.content))} compressed, {_mib(sum(self.files.values()))} in all"


def upload(root: Path, job: str) -> Upload:
    """What the code-only way sends: what git has or would add. Raises InputError if that is too large, or without git.

    The job's name is one of the files: Ray unpacks equal files into one folder, and two jobs must not share theirs.
    """
    listed = subprocess.run(
        ("git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"), capture_output=True
    )
    if listed.returncode:
        raise InputError(f"{root} is no git repository, which says what code is: `git init` it, or use shared storage")
    names = sorted({name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file()})
    sizes = {name: (root / name).stat().st_size for name in names}
    if sum(sizes.values()) > 20 * LARGEST_UPLOAD:  # need not even be compressed
        raise _too_large(sum(sizes.values()), sizes)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(root / name, name)
        archive.writestr(".state/job", job)
    if len(memory.getvalue()) > LARGEST_UPLOAD:
        raise _too_large(len(memory.getvalue()), sizes)
    return Upload(memory.getvalue(), sizes)


def _too_large(size: int, sizes: Mapping[str, int]) -> InputError:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST_SHOWN]
    names = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    return InputError(
        f"the code would be an upload of {_mib(size)}, and Ray takes {_mib(LARGEST_UPLOAD)}; nothing was sent; "
        f"name what is no code in .gitignore; the largest are {names}"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def remote(root: Path, name: str | None) -> str:
    """The DVC remote that a job pulls from and pushes to. Raises InputError if the project's own file names none."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config", encoding="utf-8")
    known = [section.strip("'").removeprefix("remote ").strip('"') for section in config if "remote " in section]
    chosen = name or config.get("core", "remote", fallback=None)
    if chosen is None:
        raise InputError(
            "no DVC remote is set, and without shared storage outputs come home through one: "
            "`dvc remote add --default NAME URL`"
        )
    if chosen not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"the DVC remote {chosen} is not in .dvc/config, which has {names}; add it or name another")
    return chosen


def fingerprint(root: Path) -> str:
    """A hash of the code and the parameters in a folder: equal code, equal hash."""
    found = hashlib.sha256()
    for path in sorted(_files(root)):
        found.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    for name in CODE:
        below = [root / name] if (root / name).is_file() else (root / name).rglob("*")
        yield from (path for path in below if path.is_file() and "__pycache__" not in path.parts)


def versions() -> dict[str, str]:
    """What runs here: Python, and the packages that matter between machines."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def look(root: str, store: str) -> dict[str, Any]:
    """What one machine says of itself: its versions, the project's code at this place, and the tracking store."""
    return {"code": fingerprint(Path(root)), "store": unreachable(store), "versions": versions()}


def unreachable(store: str) -> str:
    """Why the tracking store cannot be reached from this machine; empty if it can."""
    parts = urllib.parse.urlsplit(store)
    try:
        if parts.scheme in ("http", "https"):
            urllib.request.urlopen(f"{store.rstrip('/')}/health", timeout=STORE_SECONDS).close()
        elif parts.scheme == "sqlite":
            folder = Path(store.removeprefix("sqlite:///")).parent
            return "" if os.access(folder, os.W_OK) else f"{folder} is no folder that can be written"
        elif parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), STORE_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # somebody answers; whether it is the right password, the first stage says
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""


def remote_unreachable(root: Path, name: str) -> str:
    """Why the DVC remote cannot be written from this machine; empty if it can.

    A line of text is pushed to it: what only asks is content with a remote that holds nothing of a new project.
    """
    with tempfile.TemporaryDirectory(dir=root) as folder:  # inside, where DVC finds the project, and gone afterwards
        probe = Path(folder) / "probe.txt"
        probe.write_text("Can this remote be written?\n", encoding="utf-8")
        for words in (("add", "--quiet", probe), ("push", "--quiet", "--remote", name, f"{probe}.dvc")):
            command = (sys.executable, "-m", "dvc", *map(str, words))
            try:
                done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=REMOTE_SECONDS)
            except subprocess.TimeoutExpired:
                return f"no answer within {REMOTE_SECONDS:.0f} s"
            if done.returncode:
                return next(iter(done.stderr.strip().splitlines()), "unknown").strip()
    return ""


def line(answer: Mapping[str, Any]) -> str:
    """What a look at a cluster has found, as a line of its log."""
    return f"{MARK}{json.dumps(answer)}"


def answer_in(log: str) -> dict[str, Any] | None:
    """What a look has found, out of its log; None if it did not come that far."""
    found = [line.removeprefix(MARK) for line in log.splitlines() if line.startswith(MARK)]
    return json.loads(found[-1]) if found else None


def judge(answer: Mapping[str, Any], *, code: str, store: str, workers: Mapping[str, int]) -> Iterator[str]:
    """What is doubtful about a cluster that has answered, a line each. Raises InputError if a job cannot run there."""
    nodes = answer["nodes"]
    _refuse(f"{node['node']}: {_missing(node['error'])}" for node in nodes if "error" in node)
    mine = versions()
    for name in mine:
        there = sorted({node["versions"][name] for node in nodes} - {mine[name]})
        where = f"the cluster has {name} {', '.join(there)}, and here is {mine[name]}" if there else ""
        if there and (name in EQUAL or "missing" in there):
            raise InputError(f"{where}; install the same on both: Ray joins only equals")
        if there:
            yield where
    other = "its code or params.yaml is not the one here; bring it up to date"
    _refuse(f"the project on {node['node']} is another: {other}" for node in nodes if node["code"] != code)
    _refuse(
        f"the tracking store {_shown(store)} cannot be reached from {node['node']} ({node['store']}); "
        "set MLFLOW_TRACKING_URI to an MLflow server that every node reaches"
        for node in nodes
        if node["store"]
    )
    _refuse([answer["remote"]] if answer.get("remote") else [])
    _enough(answer["resources"], workers)
    if store.startswith("sqlite:") and len(nodes) > 1:
        yield "runs are kept in an SQLite file, which is not safe on a network's storage: an MLflow server is"


def _refuse(problems: Iterable[str]) -> None:
    first = next(iter(problems), None)
    if first is not None:
        raise InputError(first)


def _missing(error: str) -> str:
    found = "No module named" in error
    return f"the project is not there ({error}); it must lie at the same path on every node" if found else error


def _enough(resources: Mapping[str, float], workers: Mapping[str, int]) -> None:
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    for recipe, count in workers.items():
        if count > (gpus or cpus):
            kind = f"{gpus} GPUs" if gpus else f"{cpus} CPUs and no GPU"
            raise InputError(
                f"recipes.{recipe}.workers is {count}, but the cluster has {kind} now; lower it, or add nodes first"
            )


def _shown(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    return text.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2]) if "@" in parts.netloc else text
