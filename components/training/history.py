"""Metrics of a training run over its steps, as a CSV table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

# metrics that depend on the machine and so differ from run to run
MEASURED: Final = (
    "steps_per_second",
    "data_wait",
    "memory_peak_mib",
    "teraflops_per_second",
    "share_of_matmul_peak",
)


def write_history(path: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Write a CSV file with one line per logged step. A metric that was not measured at a step is an empty cell.

    The MEASURED metrics are omitted, because the file is a DVC output and must not differ from run to run.
    """
    table = pd.DataFrame(list(rows)).drop(columns=list(MEASURED), errors="ignore")
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
