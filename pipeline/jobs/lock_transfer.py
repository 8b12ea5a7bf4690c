"""Return dvc.lock changes and metrics through the job log.

A code-only job and the submitting machine share no storage, but every client can read the job log. The content is
compressed, each line starts with a mark, and the last line holds a hash, so that a truncated log is detected.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.foundation.config import dump_yaml, read_yaml
from components.foundation.errors import InputError

LOCK = "dvc.lock"
MARK = "@home "
WIDTH = 1000  # characters per line; some log collectors truncate longer lines


def stages(root: Path) -> dict[str, Any]:
    """Return the stage entries of a project's dvc.lock by stage name; empty if there is no dvc.lock."""
    return read_yaml(root / LOCK).get("stages", {}) if (root / LOCK).exists() else {}


def changed(root: Path, before: dict[str, Any]) -> list[str]:
    """Return the names of the stages whose dvc.lock entry differs from `before`."""
    return [name for name, entry in stages(root).items() if before.get(name) != entry]


def pack(root: Path, before: dict[str, Any]) -> list[str]:
    """Return the log lines with all dvc.lock entries that differ from `before`, and the metrics of these stages."""
    entries = {name: stages(root)[name] for name in changed(root, before)}
    paths = [out["path"] for entry in entries.values() for out in entry.get("outs", [])]
    files = {path: (root / path).read_text(encoding="utf-8") for path in paths if _is_metrics(path)}
    content = zlib.compress(json.dumps({"stages": entries, "files": files}).encode(), 9)
    text = base64.b64encode(content).decode()
    lines = [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]
    return [f"{MARK}{line}" for line in (*lines, f"{len(lines)} {hashlib.sha256(content).hexdigest()}")]


def unpack(log: str, root: Path) -> list[str]:
    """Write the dvc.lock entries and metrics of a job log into this project; return the names of the stages.

    Entries of stages that the job did not run stay unchanged, so that the logs of several jobs can be unpacked in any
    order. Raise InputError if the content is missing or incomplete.
    """
    content = json.loads(zlib.decompress(_content(log)))
    for path, text in content["files"].items():
        if not _is_metrics(path):
            raise InputError(
                f"the job log contains {path}, which is not a metrics file, and only metrics are written; "
                "check that the job is one of this project"
            )
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    if content["stages"]:
        lock = {"schema": "2.0", "stages": {**stages(root), **content["stages"]}}
        aside = root / f".{LOCK}.partial"
        aside.write_text(dump_yaml(lock), encoding="utf-8")
        aside.rename(root / LOCK)
    return list(content["stages"])


def visible(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a job log without those that `pack` returned, which are not for the user."""
    return (line for line in lines if not line.startswith(MARK))


def _content(log: str) -> bytes:
    lines = [line.removeprefix(MARK).strip() for line in log.splitlines() if line.startswith(MARK)]
    match = re.fullmatch(r"(\d+) ([0-9a-f]{64})", lines[-1]) if lines else None
    if match is None:
        raise InputError("the job log has no dvc.lock, because the job ended before writing it; submit the job again")
    content = base64.b64decode("".join(lines[-1 - int(match[1]) : -1]))
    if hashlib.sha256(content).hexdigest() != match[2]:
        raise InputError(
            "the dvc.lock in the job log is damaged; submit the job again, which reuses the pushed results"
        )
    return content


def _is_metrics(path: str) -> bool:
    return re.fullmatch(r"metrics(/[\w@+=-][\w.@+=-]*)+\.json", path) is not None
