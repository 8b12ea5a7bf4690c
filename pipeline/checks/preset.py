"""Command `preset`: write a preset as params.yaml, or list the presets."""

import shutil
import subprocess
import textwrap
from collections.abc import Iterable
from pathlib import Path

from components.foundation.errors import InputError
from components.foundation.files import write_text
from components.foundation.settings import presets
from components.telemetry.progress import say

PARAMS = "params.yaml"
WIDTH = 100  # characters of a line of the list


def run(root: Path, name: str | None, force: bool) -> None:
    """Write a preset as params.yaml of the project; without a name, list the presets.

    Raise InputError if there is no such preset, or if params.yaml has changes that are not committed and not `force`.
    """
    paths = sorted((root / "presets").glob("*.yaml"), key=lambda path: (path.name != presets.DEFAULT, path.name))
    found = {path.stem: path for path in paths}
    if name is None:
        say("\n".join(_description(path) for path in found.values()))
        return
    if name not in found:
        raise InputError(f"there is no preset {name} in {root / 'presets'}; the presets are {', '.join(found)}")
    file, text = root / PARAMS, presets.text(found[name])
    if not force and not _safe(file, found.values()):
        raise InputError(
            f"{PARAMS} has changes that are not committed, which this would overwrite; commit them, or add --force"
        )
    write_text(file, text)
    say(f"{PARAMS} is the preset {name}")


def _description(path: Path) -> str:
    about = presets.about(path)
    fields = [about.what, *(f"{key}: {getattr(about, key)}" for key in ("needs", "cost", "run"))]
    wrapped = [textwrap.wrap(field, WIDTH, initial_indent="  ", subsequent_indent="    ") for field in fields]
    return "\n".join([path.stem, *(line for lines in wrapped for line in lines)])


def _safe(file: Path, offered: Iterable[Path]) -> bool:
    """Return whether overwriting a file loses nothing: git has its content, or a preset has."""
    if not file.exists():
        return True
    status = ("git", "status", "--porcelain", "--ignored", "--", file.name)
    done = subprocess.run(status, cwd=file.parent, capture_output=True) if shutil.which("git") else None
    if done is not None and done.returncode == 0 and not done.stdout:
        return True
    return any(file.read_bytes() == presets.text(path).encode() for path in offered)
