"""Results of a search: the table of its trials, the Pareto front with its figure, and the best setting."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from components.foundation.config import plain
from components.foundation.errors import InputError
from components.foundation.files import write_json
from components.sampling.frame import SamplerConfig
from pipeline.tuning import figures
from pipeline.tuning.sampler_search import SamplingSearch
from pipeline.tuning.training_search import TrainingSearch

# of an objective in a row of the table: its interval, and its difference to the row's own settings
ENDS: Final = ("", "_low", "_high", "_difference", "_difference_low", "_difference_high")

Search = SamplingSearch | TrainingSearch


def write_tables(rows: list[dict[str, Any]], search: Search, out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write the table, the Pareto front and its figure; return the table and the best row by the first objective.

    Raise InputError if no trial has finished with a valid first objective.
    """
    objectives = search.objectives
    finished = [row for row in rows if row["status"] == "finished" and not math.isnan(row[objectives[0]])]
    if not finished:
        raise InputError("every trial of the search failed; see the errors above")
    # equal scores: the least work, then the first trial; a measured time would choose another winner in another run
    best = min(finished, key=lambda row: (row[objectives[0]], row.get("gigaflops_per_frame", 0.0), row["trial"]))
    measured = [f"{name}{suffix}" for name in objectives for suffix in ENDS]
    present = [name for name in (*measured, "gigaflops_per_frame", "step") if any(name in row for row in rows)]
    columns = ["trial", *search.space, *present, "front", "status", "error"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table["front"] = on_front(table, objectives)
    table.to_csv(out / "trials.csv", index=False, lineterminator="\n")
    if len(objectives) > 1:
        front = table[table["front"]].sort_values(list(objectives))
        front.to_csv(out / "front.csv", index=False, lineterminator="\n")
        (out / "front.png").write_bytes(figures.front(table, objectives, best["trial"]))
    return table, best


def write_best(
    out: Path, best: Mapping[str, Any], search: Search, sampler: SamplerConfig, unseen: Mapping[str, float]
) -> None:
    """Write best.json: the winner's scores, its settings, and the whole sampler, which `evaluate` reads."""
    content = {
        "trial": best["trial"],
        "objectives": {name: best[name] for name in search.objectives},
        "setting": {path: best[path] for path in search.space},
        "unseen": dict(unseen),
        "sampler": plain(sampler),
    }
    write_json(out / "best.json", content)


def summary(
    rows: Sequence[Mapping[str, Any]], table: pd.DataFrame, best: Mapping[str, Any], search: Search
) -> dict[str, float]:
    """Return the stage's metrics: the best and the first score, and counts of trials."""
    first = search.objectives[0]
    return {
        **{f"{name}_best": best[name] for name in search.objectives},
        f"{first}_first": rows[0].get(first, float("nan")),
        "trials": float(len(rows)),
        "trials_failed": float((table["status"] == "failed").sum()),
        "trials_on_front": float(table["front"].sum()),
    }


def on_front(table: pd.DataFrame, objectives: Sequence[str]) -> list[bool]:
    """Return for each row whether it is on the Pareto front; objectives are minimised.

    A row is on the front if no other row is at least as good in all objectives and better in one. Rows with a missing
    objective are not on the front.
    """
    values = table[list(objectives)].to_numpy(dtype=float)
    complete = np.isfinite(values).all(axis=1)
    dominated = [any((other <= own).all() and (other < own).any() for other in values[complete]) for own in values]
    return [bool(whole and not worse) for whole, worse in zip(complete, dominated, strict=True)]
