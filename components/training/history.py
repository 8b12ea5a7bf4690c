"""What a training wrote down on its way, as a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

# what differs from run to run, as machines do
MEASURED: Final = (
    "steps_per_second",
    "data_wait",
    "memory_peak_mib",
    "teraflops_per_second",
    "share_of_matmul_peak",
)


def write_history(path: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """One line an interval, as csv; what was not measured at a step is an empty cell.

    What differs from run to run is left out: the file belongs to a stage's outputs.
    """
    table = pd.DataFrame(list(rows)).drop(columns=list(MEASURED), errors="ignore")
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
