"""Folders of a project that outlive the temporary copies in which DVC runs queued experiments."""

from pathlib import Path
from typing import Final

COPIES: Final = (".dvc", "tmp", "exps")


def home(root: Path) -> Path:
    """Return the project's own folder if `root` is a copy for a queued experiment, else `root` itself.

    DVC runs queued experiments in copies below `.dvc/tmp/exps` of a project and deletes each copy afterwards.
    """
    root = root.resolve()
    for folder in root.parents:
        if folder.parts[-len(COPIES) :] == COPIES:
            return folder.parents[len(COPIES) - 1]
    return root


def runs(root: Path) -> Path:
    """Return the default folder of MLflow's database and artifacts."""
    return home(root) / "mlruns"
