"""Command `check`: find every problem of params.yaml before anything runs."""

import configparser
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.sources import sources
from components.telemetry.progress import complain, say
from pipeline.checks import problems
from pipeline.runtime import stage


def run(file: Path) -> int:
    """Print all problems of a params file, or that there are none; return the exit status, 2 if there are problems.

    Raise InputError if the file is not valid YAML, if a name in it is not allowed, if DVC cannot read a folder of
    videos or does not detect changes in it, if the project is not a git repository, which DVC needs, or if `data` is
    a link.
    """
    _require_git(Path.cwd())
    _refuse_link(Path.cwd())
    tables = stage.read_tables(file)
    sources.check(tables, str(file))
    if has_problems(tables, file, videos_needed=True):
        return 2
    say(f"{file}: no problems in {len(tables['experiments'])} rows")
    return 0


def has_problems(tables: Mapping[str, Any], file: Path, *, videos_needed: bool) -> bool:
    """Print all problems and notes of a params file and return whether there are problems.

    With `videos_needed`, a data set whose folder of videos is missing is a problem.
    """
    found = problems.whole(tables, str(file), Path.cwd(), videos_needed=videos_needed)
    for note in found.notes:
        say(f"note: {note}")
    for problem in found.problems:
        complain(f"error: {problem}")
    return bool(found.problems)


def _require_git(project: Path) -> None:
    """Raise InputError if DVC would refuse to run because a DVC project is not in a git repository."""
    if not (project / ".dvc").is_dir():
        return
    if any((folder / ".git").exists() for folder in (project, *project.parents)):
        _require_readable_git(project)
        return
    config = configparser.ConfigParser(interpolation=None)
    config.read((project / ".dvc" / "config", project / ".dvc" / "config.local"), encoding="utf-8")
    if not config.getboolean("core", "no_scm", fallback=False):
        raise InputError(
            f"{project} is not a git repository, and DVC refuses to run; run `git init` there, or "
            "`dvc config core.no_scm true` to work without git and without `dvc exp`"
        )


def _require_readable_git(project: Path) -> None:
    """Raise InputError if git refuses a repository of another user: runs would be recorded without their commit."""
    if shutil.which("git") is None:
        return
    done = subprocess.run(("git", "-C", project, "rev-parse", "--git-dir"), capture_output=True, text=True)
    if "dubious ownership" in done.stderr:
        raise InputError(
            f"git refuses the repository of {project}, because it belongs to another user; if you trust it, run "
            f"`git config --global --add safe.directory {shlex.quote(str(project))}`"
        )


def _refuse_link(project: Path) -> None:
    """Raise InputError if `data` is a link: DVC refuses outputs behind a link, but only after a stage has run."""
    if (project / ".dvc").is_dir() and (project / "data").is_symlink():
        raise InputError(
            "data is a link, and DVC refuses outputs behind a link; remove it, and put DVC's cache on the other disk: "
            "`dvc cache dir --local FOLDER` and `dvc config --local cache.type symlink`"
        )
