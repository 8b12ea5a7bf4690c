"""Checks before a job is submitted: the size of the upload, and whether the cluster can run the job."""

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

from components.foundation.errors import InputError
from components.telemetry import store as tracking_store

LARGEST_UPLOAD = 100 * 2**20  # bytes; limit of Ray's dashboard
LARGEST_LISTED = 3
CODE = ("components", "pipeline", "dvc.yaml", "params.yaml")
SAME_VERSION = ("python", "ray")  # must have equal versions on all machines; other packages may differ
PACKAGES = ("ray", "torch", "mlflow", "dvc")
MARK = "@look "
STORE_SECONDS = 10.0
REMOTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A zip file of a project's code."""

    content: bytes
    files: Mapping[str, int]  # uncompressed size in bytes by path

    def __str__(self) -> str:
        size = sum(self.files.values())
        return f"{len(self.files)} files, {_mib(len(self.content))} compressed, {_mib(size)} uncompressed"


def upload(root: Path, job: str) -> Upload:
    """Return the upload of a code-only job: the files that git tracks or would add.

    The job's name is added as a file, because Ray unpacks equal uploads into one folder, which two jobs must not share.
    Raise InputError if the upload is too large or the project is not a git repository.
    """
    listed = subprocess.run(
        ("git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"), capture_output=True
    )
    if listed.returncode:
        raise InputError(
            f"{root} is not a git repository, but the files to upload are those that git tracks or would add; "
            "run `git init` there, or use shared storage"
        )
    names = sorted({name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file()})
    sizes = {name: (root / name).stat().st_size for name in names}
    if sum(sizes.values()) > 20 * LARGEST_UPLOAD:  # too large even after compression
        raise _too_large(sum(sizes.values()), sizes)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(root / name, name)
        archive.writestr(".state/job", job)
    content = buffer.getvalue()
    if len(content) > LARGEST_UPLOAD:
        raise _too_large(len(content), sizes)
    return Upload(content, sizes)


def _too_large(size: int, sizes: Mapping[str, int]) -> InputError:
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST_LISTED]
    names = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    return InputError(
        f"the upload of the code is {_mib(size)}, but Ray accepts at most {_mib(LARGEST_UPLOAD)}; nothing was sent; "
        f"add files that are not code to .gitignore; the largest are {names}"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def remote(root: Path, name: str | None) -> str:
    """Return the name of the DVC remote that a job pulls from and pushes to; `name` None selects the default remote.

    Raise InputError if .dvc/config does not have the remote.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config", encoding="utf-8")
    known = [section.strip("'").removeprefix("remote ").strip('"') for section in config if "remote " in section]
    chosen = name or config.get("core", "remote", fallback=None)
    if chosen is None:
        raise InputError(
            "no DVC remote is set, but a job without shared storage returns its outputs through a remote; "
            "run `dvc remote add --default NAME URL`"
        )
    if chosen not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"the DVC remote {chosen} is not in .dvc/config, which has {names}; add it or choose another")
    return chosen


def fingerprint(root: Path) -> str:
    """Return a hash of the code and the parameters in a folder."""
    digest = hashlib.sha256()
    for path in sorted(_files(root)):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    for name in CODE:
        below = [root / name] if (root / name).is_file() else (root / name).rglob("*")
        yield from (path for path in below if path.is_file() and "__pycache__" not in path.parts)


def versions() -> dict[str, str]:
    """Return the version of Python and of each package in PACKAGES on this machine; "missing" for a missing package."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "missing"
    return installed


def node_report(root: str, store: str) -> dict[str, Any]:
    """Return this machine's versions, the hash of the code in `root`, and why the tracking store is unreachable."""
    return {"code": fingerprint(Path(root)), "store": store_problem(store), "versions": versions()}


def store_problem(store: str) -> str:
    """Return why this machine cannot reach the tracking store at this URI; empty if it can."""
    parts = urllib.parse.urlsplit(store)
    try:
        if parts.scheme in ("http", "https"):
            urllib.request.urlopen(f"{store.rstrip('/')}/health", timeout=STORE_SECONDS).close()
        elif (file := tracking_store.database(store)) is not None:
            return "" if os.access(file.parent, os.W_OK) else f"{file.parent} is not a writable folder"
        elif parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), STORE_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # the server answers; the first stage checks the password
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""


def remote_problem(root: Path, name: str) -> str:
    """Return why this machine cannot write to the DVC remote; empty if it can.

    Pushes a small file, because reading would also succeed on an empty remote that cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=root) as folder:  # inside the project, so that DVC finds its config
        probe = Path(folder) / "probe.txt"
        probe.write_text("Can this remote be written?\n", encoding="utf-8")
        for arguments in (("add", "--quiet", probe), ("push", "--quiet", "--remote", name, f"{probe}.dvc")):
            command = (sys.executable, "-m", "dvc", *map(str, arguments))
            try:
                done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=REMOTE_SECONDS)
            except subprocess.TimeoutExpired:
                return f"no answer within {REMOTE_SECONDS:.0f} s"
            if done.returncode:
                return next(iter(done.stderr.strip().splitlines()), "unknown").strip()
    return ""


def format_report(report: Mapping[str, Any]) -> str:
    """Return a cluster report as a line of the job log."""
    return f"{MARK}{json.dumps(report)}"


def parse_report(log: str) -> dict[str, Any] | None:
    """Return the cluster report in a job log; None if there is none."""
    reports = [line.removeprefix(MARK) for line in log.splitlines() if line.startswith(MARK)]
    return json.loads(reports[-1]) if reports else None


def check_cluster(report: Mapping[str, Any], *, code: str, store: str, workers: Mapping[str, int]) -> Iterator[str]:
    """Yield a warning for each doubtful property of a cluster. Raise InputError if it cannot run the job.

    `code` is the fingerprint of this machine's project, `store` the tracking URI, and `workers` the number of workers
    of each recipe.
    """
    nodes = report["nodes"]
    _raise_first(f"{node['node']}: {_explained(node['error'])}" for node in nodes if "error" in node)
    for name, mine in versions().items():
        others = sorted({node["versions"][name] for node in nodes} - {mine})
        difference = f"the cluster has {name} {', '.join(others)}, but this machine has {mine}"
        if others and (name in SAME_VERSION or "missing" in others):
            raise InputError(f"{difference}; the job would fail; install the same version on both")
        if others:
            yield difference
    _raise_first(
        f"the project on {node['node']} has other code or another params.yaml than this machine; update it"
        for node in nodes
        if node["code"] != code
    )
    _raise_first(
        f"the tracking store {_without_credentials(store)} cannot be reached from {node['node']} ({node['store']}); "
        "set MLFLOW_TRACKING_URI to an MLflow server that every node can reach"
        for node in nodes
        if node["store"]
    )
    _raise_first([report["remote"]] if report.get("remote") else [])
    _check_workers(report["resources"], workers)
    if store.startswith("sqlite:") and len(nodes) > 1:
        yield "runs are stored in an SQLite file, which is unsafe on network storage; use an MLflow server"


def _raise_first(problems: Iterable[str]) -> None:
    first = next(iter(problems), None)
    if first is not None:
        raise InputError(first)


def _explained(error: str) -> str:
    missing = "No module named" in error
    return f"the project is missing ({error}); put it at the same path on every node" if missing else error


def _check_workers(resources: Mapping[str, float], workers: Mapping[str, int]) -> None:
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    for recipe, count in workers.items():
        if count > (gpus or cpus):
            kind = f"{gpus} GPUs" if gpus else f"{cpus} CPUs and no GPU"
            raise InputError(
                f"recipes.{recipe}.workers is {count}, but the cluster has {kind} now; lower it, or add nodes first"
            )


def _without_credentials(url: str) -> str:
    netloc = urllib.parse.urlsplit(url).netloc
    return url.replace(netloc, netloc.rpartition("@")[2]) if "@" in netloc else url
