"""Where a project keeps what must outlive the folder that a command runs in."""

from pathlib import Path
from typing import Final

COPIES: Final = (".dvc", "tmp", "exps")


def home(root: Path) -> Path:
    """The project that is in this folder, or that this folder is a copy of.

    DVC runs queued experiments in copies below `.dvc/tmp/exps` of a project, and removes them with all that they hold.
    """
    root = root.resolve()
    for folder in root.parents:
        if folder.parts[-len(COPIES) :] == COPIES:
            return folder.parents[len(COPIES) - 1]
    return root


def runs(root: Path) -> Path:
    """The folder of MLflow's database and artifacts, where no other store is named."""
    return home(root) / "mlruns"
