"""Check params.yaml before anything runs: the whole file, or the entries that a stage's row uses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from components.foundation.errors import InputError
from pipeline.checks import counts, fit
from pipeline.checks.counts import Known
from pipeline.checks.entries import KINDS, ParamsCheck, Row
from pipeline.runtime import stage

ALL: Final = "`canvasmar check` prints all problems"


def whole(tables: Mapping[str, Any], file: str, root: Path, *, videos_needed: bool) -> ParamsCheck:
    """Return all problems and notes of a params file: in entries, rows and ablations, and in the data on disk.

    With `videos_needed`, a data set whose folder of videos is missing is a problem.
    """
    check, known = ParamsCheck(tables, file), Known(root, {}, videos_needed)
    for sentence in stage.unknown(tables):
        check.problem(sentence)
    for table in KINDS:
        if not isinstance(tables.get(table), dict):
            check.problem(f"the table {table} is missing; add it, {{}} if it has no entries")
        for name in check.names(table):
            check.entry(table, name, table)
    for name in check.names("datasets"):
        counts.dataset(check, name, known)
    for name in check.names("autoencoders"):
        fit.autoencoder(check, name)
        counts.autoencoder(check, name, known)
    for name in check.names("experiments"):
        _experiment(check, name, known)
    for name in check.names("ablations"):
        _ablation(check, name, known)
    return check


def before_stage(tables: Mapping[str, Any], table: str | None, row: str | None, folders: Mapping[str, Path]) -> None:
    """Raise InputError if a row of a stage, or a row that depends on it, would fail later.

    `folders` are the stage's inputs; the clips among them are up to date.
    """
    if table is None or row is None:
        return
    clips = {folder.name: folder for name, folder in folders.items() if name == "clips"}
    check, known = ParamsCheck(tables), Known(Path.cwd(), clips, videos_needed=False)
    match table:
        case "autoencoders":
            fit.autoencoder(check, row)
            counts.autoencoder(check, row, known)
        case "datasets":
            counts.dataset(check, row, known)
        case "ablations":
            _ablation(check, row, known)
    for name in _rows(check, table, row):
        _experiment(check, name, known)
    if check.problems:
        first, *others = check.problems
        more = f" (and {len(others)} more: {ALL})" if others else ""
        raise InputError(f"{first}{more}")


def _rows(check: ParamsCheck, table: str, row: str) -> list[str]:
    """Return the names of the experiments that use the entry `row` of a table from which stages take their row."""

    def uses(*keys: str, names: tuple[str, ...] = (row,)) -> Callable[[str], bool]:
        return lambda name: any((check.tables["experiments"][name] or {}).get(key) in names for key in keys)

    made = tuple(
        name
        for name in check.names("datasets")
        if (check.tables["datasets"][name] or {}).get("path") == f"data/videos/{row}"
    )
    chosen = {
        "simulations": uses("dataset", "scored_on", names=made),
        "datasets": uses("dataset", "scored_on"),
        "autoencoders": uses("autoencoder"),
        "experiments": lambda name: name == row,
    }
    return [name for name in check.names("experiments") if table in chosen and chosen[table](name)]


def _experiment(check: ParamsCheck, name: str, known: Known) -> None:
    if (row := Row.of(check, name)) is not None:
        fit.experiment(check, row)
        fit.initial_weights(check, row, known.root)
        counts.experiment(check, row, known)


def _ablation(check: ParamsCheck, name: str, known: Known) -> None:
    fit.ablation(check, name)
    counts.ablation(check, name, known)
