"""Verification of an output: trace its provenance back to the videos and compare every file with its record."""

from pathlib import Path

from components.foundation.errors import InputError
from components.telemetry import provenance
from components.telemetry.progress import complain, say


def verify(root: Path, path: Path) -> int:
    """Print the stage that made each folder of the chain and each mismatch; return the number of mismatches.

    Raises InputError if the path does not exist.
    """
    if not path.exists() and provenance.read(path.resolve()) is None:
        raise InputError(f"{path} does not exist; name an output of a stage, such as data/models/<row>")
    problems: list[str] = []
    links = 0
    for link in provenance.follow(root.resolve(), path.resolve()):
        made = link.provenance
        if made is None:
            told = "no provenance is recorded"
        else:
            commit = (made.commit or "no commit")[:12] + (" with changes" if made.changed else "")
            told = f"{made.stage}, {commit}, {made.ended}, MLflow run {made.run}"
        say(f"{'  ' * link.depth}{link.path}: {told}")
        links += 1
        problems += link.problems
    for problem in problems:
        complain(f"mismatch: {problem}")
    say(f"{links} folders, " + (f"{len(problems)} mismatches" if problems else "no mismatches"))
    return len(problems)
