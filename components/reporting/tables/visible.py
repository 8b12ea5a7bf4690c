"""Flow loss of the last validation against the number of visible tokens."""

from collections.abc import Mapping
from typing import Final

import pandas as pd

from components.reporting.tables.tables import Cell, Line, Table, significant

COLUMN: Final = "validation_flow_visible_"  # prefix in history.csv; the number of visible tokens follows


def curves(histories: Mapping[str, pd.DataFrame]) -> dict[str, dict[int, float]]:
    """Return the loss of the last validation by number of visible tokens, for each row that trains with masks."""
    losses = {}
    for row, history in histories.items():
        columns = [str(name) for name in history if str(name).startswith(COLUMN)]
        validated = history[columns].dropna()
        if columns and len(validated):
            last = validated.iloc[-1]
            losses[row] = {int(name.removeprefix(COLUMN)): float(last[name]) for name in columns}
    return losses


def table(histories: Mapping[str, pd.DataFrame]) -> Table | None:
    """Return one line per row with masks and one column per number of visible tokens; None without such rows."""
    losses = curves(histories)
    counts = sorted({count for curve in losses.values() for count in curve})
    lines = tuple(
        Line((Cell(row), *(Cell(significant(curve.get(count))) for count in counts)), "model")
        for row, curve in losses.items()
    )
    heads = (Cell("flow loss"), *(Cell(str(count), "visible") for count in counts))
    return Table(heads, lines) if lines else None
