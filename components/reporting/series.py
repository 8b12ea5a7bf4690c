"""The numbers behind the figures as tables in long form, a line a point: what `dvc plots` draws and compares."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from components.reporting import drift
from components.reporting.results import Evaluation, Score, Sweep

FILES = ("training", "validation", "scores", "drift", "search")


def write(
    histories: Mapping[str, pd.DataFrame], evaluations: Sequence[Evaluation], sweeps: Mapping[str, Sweep], out: Path
) -> None:
    """The `FILES` as CSV into `out`, each there also if it has no line; a column names the row of every line."""
    tables = {
        "training": [_history(row, history, "loss") for row, history in histories.items()],
        "validation": [_history(row, history, "validation_loss") for row, history in histories.items()],
        "scores": [pd.DataFrame({"row": score.name, **score.numbers}, index=[0]) for score in _scores(evaluations)],
        "drift": [
            pd.DataFrame({"row": row, "frame": window.last, **window.numbers}, index=[0])
            for one in evaluations
            for row, windows in drift.lines_of([one]).items()
            for window in windows
        ],
        "search": [sweep.trials.dropna(subset=["fvd"]).assign(row=row) for row, sweep in sweeps.items()],
    }
    empty = pd.DataFrame(columns=["row", "step", "frame", "loss", "validation_loss", "fvd", "milliseconds_per_frame"])
    out.mkdir(parents=True)
    for name, parts in tables.items():
        table = pd.concat(parts, ignore_index=True).drop_duplicates() if parts else empty
        table.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")


def _history(row: str, history: pd.DataFrame, term: str) -> pd.DataFrame:
    if term not in history:
        return pd.DataFrame(columns=["row", "step", term])
    return history[["step", term]].dropna().assign(row=row)


def _scores(evaluations: Sequence[Evaluation]) -> list[Score]:
    return list({score.name: score for one in evaluations for score in one.scores}.values())
