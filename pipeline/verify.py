"""Command `verify`: the chain behind a folder, back to the videos, and what of it does not fit."""

import argparse
import sys
from pathlib import Path

from components import lineage
from components.errors import InputError
from pipeline import stage
from pipeline.progress import complain, say


def main() -> None:
    """Follows what a folder was made from, reads every file again and says what does not fit; status 1 if anything."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.verify", description=main.__doc__)
    parser.add_argument("path", type=Path, help="an output of a stage, such as data/evaluations/kuka-canvasmar")
    arguments = parser.parse_args()
    with stage.command() as root:
        problems = check(root, arguments.path)
    sys.exit(1 if problems else 0)


def check(root: Path, path: Path) -> int:
    """Says of every folder of the chain what made it; the number of problems. Raises InputError for no such path."""
    if not path.exists() and lineage.read(path.resolve()) is None:
        raise InputError(f"{path} does not exist; name an output of a stage, such as data/models/<row>")
    problems: list[str] = []
    links = 0
    for link in lineage.follow(root.resolve(), path.resolve()):
        made = link.lineage
        if made is None:
            told = "made by nobody knows whom"
        else:
            commit = (made.commit or "no commit")[:12] + (" with changes" if made.changed else "")
            told = f"{made.stage}, {commit}, {made.ended}, MLflow run {made.run}"
        say(f"{'  ' * link.depth}{link.path}: {told}")
        links += 1
        problems += link.problems
    for problem in problems:
        complain(f"does not fit: {problem}")
    say(f"{links} folders, " + (f"{len(problems)} problems" if problems else "everything fits"))
    return len(problems)


if __name__ == "__main__":
    main()
