"""What a training wrote down on its way, as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd


def write_history(path: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """One line an interval, as csv; what was not measured at a step is an empty cell.

    Speed and waiting are left out: they differ from run to run, and the file belongs to a stage's outputs.
    """
    table = pd.DataFrame(list(rows)).drop(columns=["steps_per_second", "data_wait"], errors="ignore")
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
