"""What a job leaves in its log for home: the new entries of its dvc.lock, and the metrics of the stages that ran.

A log is what every cluster keeps and every client can read. The lines are compressed, told apart by a mark and held to
a hash, so that half of them is never taken for the whole.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.config import dump_yaml, read_yaml
from components.errors import InputError

LOCK = "dvc.lock"
MARK = "@home "
WIDTH = 1000  # letters of a line; longer ones are cut by some collectors of logs


def stages(root: Path) -> dict[str, Any]:
    """The stages of a project's dvc.lock; none if nothing has run."""
    return read_yaml(root / LOCK).get("stages", {}) if (root / LOCK).exists() else {}


def changed(root: Path, before: dict[str, Any]) -> list[str]:
    """The stages that have run since dvc.lock held these entries."""
    return [name for name, entry in stages(root).items() if before.get(name) != entry]


def pack(root: Path, before: dict[str, Any]) -> list[str]:
    """The lines for the log: all that has changed since dvc.lock held these entries."""
    fresh = {name: stages(root)[name] for name in changed(root, before)}
    paths = [out["path"] for entry in fresh.values() for out in entry.get("outs", [])]
    files = {path: (root / path).read_text(encoding="utf-8") for path in paths if _is_metrics(path)}
    content = zlib.compress(json.dumps({"stages": fresh, "files": files}).encode(), 9)
    text = base64.b64encode(content).decode()
    lines = [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]
    return [f"{MARK}{line}" for line in (*lines, f"{len(lines)} {hashlib.sha256(content).hexdigest()}")]


def unpack(log: str, root: Path) -> list[str]:
    """Writes what the log of a job holds into the project at home; the stages that it brought.

    Stages that the job did not run stay as they are, so that jobs may come home in any order. Raises InputError if the
    log holds none of it, or not all.
    """
    content = json.loads(zlib.decompress(_content(log)))
    for path, text in content["files"].items():
        if not _is_metrics(path):
            raise InputError(f"the job's log wants to write {path}, which is no file of metrics; it is not one of ours")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    if content["stages"]:
        lock = {"schema": "2.0", "stages": {**stages(root), **content["stages"]}}
        aside = root / f".{LOCK}.partial"
        aside.write_text(dump_yaml(lock), encoding="utf-8")
        aside.rename(root / LOCK)
    return list(content["stages"])


def hidden(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a log that are for a person."""
    return (line for line in lines if not line.startswith(MARK))


def _content(log: str) -> bytes:
    lines = [line.removeprefix(MARK).strip() for line in log.splitlines() if line.startswith(MARK)]
    match = re.fullmatch(r"(\d+) ([0-9a-f]{64})", lines[-1]) if lines else None
    if match is None:
        raise InputError("the job's log does not hold its dvc.lock: it ended before; submit it again")
    content = base64.b64decode("".join(lines[-1 - int(match[1]) : -1]))
    if hashlib.sha256(content).hexdigest() != match[2]:
        raise InputError("the job's dvc.lock is damaged in its log; submit it again: what it has pushed is found again")
    return content


def _is_metrics(path: str) -> bool:
    return re.fullmatch(r"metrics(/[\w@+=-][\w.@+=-]*)+\.json", path) is not None
