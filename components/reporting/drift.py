"""Whether predictions get worse the further they go: the scores of windows along the predicted frames."""

from collections.abc import Sequence
from typing import Final

from components.reporting.results import REFERENCES, Evaluation, Window
from components.reporting.tables import SCORES, Cell, Line, Table, cell, check_comparable, sign

DRAWN: Final = ("fvd", "frame_distance", "psnr", "ssim", "lpips", "motion_ratio")


def table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Scores window by window, along the predicted frames: models, then references; None where none were asked for."""
    check_comparable(evaluations)
    found = lines_of(evaluations)
    every = [window.numbers for windows in found.values() for window in windows]
    columns = [column for column in SCORES if column.key != "clips" and any(column.key in numbers for numbers in every)]
    lines = [
        Line(
            (
                Cell(name),
                Cell(f"{window.first}–{window.last}"),
                *(cell(column, window.numbers, None) for column in columns),
            ),
            "reference" if name in REFERENCES else "model",
        )
        for name, windows in found.items()
        for window in windows
    ]
    heads = (Cell("row"), Cell("frames"), *(Cell(column.label, sign(column)) for column in columns))
    return Table(heads, tuple(lines), words=2) if lines else None


def lines_of(evaluations: Sequence[Evaluation]) -> dict[str, list[Window]]:
    """The windows of each model and of each reference, by name."""
    found: dict[str, list[Window]] = {}
    for evaluation in evaluations:
        for name in dict.fromkeys(window.name for window in evaluation.drift):
            label = name if name in REFERENCES else evaluation.row
            found.setdefault(label, [window for window in evaluation.drift if window.name == name])
    return dict(sorted(found.items(), key=lambda item: item[0] in REFERENCES))
