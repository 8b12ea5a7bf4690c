"""Data of the figures as long-form tables, one line per point, for `dvc plots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from components.reporting.results import Evaluation, Score, Sweep
from components.reporting.tables import drift, visible

FILES = ("training", "validation", "visible", "scores", "drift", "search")


def write(
    histories: Mapping[str, pd.DataFrame], evaluations: Sequence[Evaluation], sweeps: Mapping[str, Sweep], out: Path
) -> None:
    """Write each of `FILES` as CSV into `out`, even if empty; the column `row` names the experiment of a line."""
    tables = {
        "training": [_history(row, history, "loss") for row, history in histories.items()],
        "validation": [_history(row, history, "validation_loss") for row, history in histories.items()],
        "visible": [
            pd.DataFrame({"row": row, "visible": list(curve), "flow": list(curve.values())})
            for row, curve in visible.curves(histories).items()
        ],
        "scores": [pd.DataFrame({"row": score.name, **score.metrics}, index=[0]) for score in _scores(evaluations)],
        "drift": [
            pd.DataFrame({"row": row, "frame": window.last, **window.metrics}, index=[0])
            for one in evaluations
            for row, windows in drift.lines_of([one]).items()
            for window in windows
        ],
        "search": [  # of samplers; a search by short trainings has no FVD
            sweep.trials.dropna(subset=["fvd"]).assign(row=row)
            for row, sweep in sweeps.items()
            if "fvd" in sweep.trials
        ],
    }
    columns = ["row", "step", "frame", "visible", "flow", "loss", "validation_loss", "fvd", "milliseconds_per_frame"]
    empty = pd.DataFrame(columns=columns)
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
