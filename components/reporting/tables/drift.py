"""Drift: scores of windows along the predicted frames, which show whether quality decreases with time."""

from collections.abc import Sequence
from typing import Final

from components.reporting.results import REFERENCES, Evaluation, Window
from components.reporting.tables.columns import SCORES
from components.reporting.tables.tables import Cell, Line, Table, cell, check_comparable, unit_and_arrow

PLOTTED: Final = ("fvd", "frame_distance", "psnr", "ssim", "lpips", "motion_ratio", "still_change", "form_distance")


def table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Return the scores of each window, models before references; None if no window was scored."""
    check_comparable(evaluations)
    windows_by_name = lines_of(evaluations)
    all_metrics = [window.metrics for windows in windows_by_name.values() for window in windows]
    columns = [
        column for column in SCORES if column.key != "clips" and any(column.key in metrics for metrics in all_metrics)
    ]
    lines = [
        Line(
            (
                Cell(name),
                Cell(f"{window.first}–{window.last}"),
                *(cell(column, window.metrics, None) for column in columns),
            ),
            "reference" if name in REFERENCES else "model",
        )
        for name, windows in windows_by_name.items()
        for window in windows
    ]
    heads = (Cell("row"), Cell("frames"), *(Cell(column.label, unit_and_arrow(column)) for column in columns))
    return Table(heads, tuple(lines), text_columns=2) if lines else None


def lines_of(evaluations: Sequence[Evaluation]) -> dict[str, list[Window]]:
    """Return the windows of each model and reference by name, models first."""
    lines: dict[str, list[Window]] = {}
    for evaluation in evaluations:
        for name in dict.fromkeys(window.name for window in evaluation.drift):
            label = name if name in REFERENCES else evaluation.row
            lines.setdefault(label, [window for window in evaluation.drift if window.name == name])
    return dict(sorted(lines.items(), key=lambda item: item[0] in REFERENCES))
