"""Tables 1 and 2 of the paper with the rows of this project, and whether the two are comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from components.reporting.results import Evaluation
from components.reporting.tables.tables import Cell, Line, Table, format_value, number


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A table of the paper; `protocol` holds the settings of its evaluation that the paper states."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    protocol: Mapping[str, Any]
    note: str


KINETICS: Final = Published(
    "Table 1 of the paper: Kinetics-600",
    ("FVD",),
    (
        ("DVD-GAN-FP", "69.1"),
        ("TrIVD-GAN-FP", "25.74"),
        ("VDM", "16.2"),
        ("RaMViD", "16.5"),
        ("Rolling Diffusion", "5.2"),
        ("DFoT*", "4.3"),
        ("Video Transformer", "170"),
        ("CogVideo", "109.2"),
        ("Video VQ-VAE", "64.3"),
        ("CCVS", "55.0"),
        ("Phenaki*", "36.4"),
        ("Transframer", "25.4"),
        ("MAGVIT", "9.9"),
        ("MAGVIT-v2", "4.3"),
        ("MAGI", "11.5"),
        ("CanvasMAR, 10 sets", "6.3"),
        ("CanvasMAR, 11 sets", "6.3"),
        ("CanvasMAR, 12 sets", "6.2"),
    ),
    {
        "dataset": "kinetics600",
        "clips": 50_000,
        "samples": 1,
        "start": "random",
        "context": 5,
        "context_scored": True,
        "frames": 11,
        "resolution": 64,
    },
    "*: possibly scored at 128x128. The paper uses a random clip of each video with 5 + 11 frames, as DFoT does.",
)
BAIR: Final = Published(
    "Table 2 of the paper: BAIR robot pushing",
    ("FVD", "DFVD"),
    (
        ("DVD-GAN-FP", "109.8", ""),
        ("TrIVD-GAN-FP", "103", ""),
        ("MCVD", "90", ""),
        ("RaMViD", "84", ""),
        ("VDM", "66.9", ""),
        ("Transframer", "100", ""),
        ("CCVS", "99", ""),
        ("Phenaki", "97", ""),
        ("MaskViT", "94", ""),
        ("NÜWA", "87", ""),
        ("MAGVIT-L", "62", "31"),
        ("MAGVIT-B", "76", "48"),
        ("CanvasMAR, 4 sets", "66.0", "26.6"),
        ("CanvasMAR, 6 sets", "65.3", "26.5"),
        ("CanvasMAR, 8 sets", "65.2", "26.4"),
    ),
    {
        "dataset": "bair",
        "clips": 256,
        "samples": 100,
        "context": 1,
        "context_scored": False,
        "frames": 16,
        "resolution": 64,
    },
    "DFVD: debiased FVD of MAGVIT; clips start at a random frame of each video, and real clips at the same frames.",
)
PUBLISHED: Final = (KINETICS, BAIR)


def differences(published: Published, protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one phrase for each setting of `protocol` that differs from the published table's protocol.

    Empty if all settings that the paper states agree.
    """
    return tuple(
        f"{key.replace('_', ' ')} {format_value(protocol.get(key))} instead of {format_value(expected)}"
        for key, expected in published.protocol.items()
        if protocol.get(key) != expected
    )


def verdict(published: Published, evaluation: Evaluation) -> str:
    """Return a sentence: whether a row is comparable with the table, and the differences if it is not."""
    mismatches = differences(published, evaluation.protocol)
    if mismatches:
        return f"{evaluation.row} is not comparable: {', '.join(mismatches)}."
    return (
        f"{evaluation.row} is scored by the protocol that the paper states. It is comparable if the clips "
        f"(hash {evaluation.protocol.get('clips_hash')}) come from the original test videos. The other rows state "
        "neither their resize method nor their I3D weights, which change FVD by a few percent."
    )


def table(published: Published, evaluations: Sequence[Evaluation]) -> Table:
    """Return the paper's rows, then ours, marked as comparable or not, with a verdict on each as a note."""
    lines = [Line(tuple(Cell(text or "–") for text in row)) for row in published.rows]
    lines += [_our_line(published, evaluation) for evaluation in evaluations]
    heads = (Cell("method"), *(Cell(name, "↓") for name in published.columns))
    return Table(heads, tuple(lines), (published.note, *(verdict(published, one) for one in evaluations)))


def _our_line(published: Published, evaluation: Evaluation) -> Line:
    """Return the line of our row: its FVD in the column FVD, or DFVD for random start frames."""
    debiased = "DFVD" in published.columns and evaluation.protocol.get("start") == "random"
    kind = "DFVD" if debiased else "FVD"
    score = evaluation.line(evaluation.row)
    value = None if score is None else score.metrics.get("fvd")
    comparable = not differences(published, evaluation.protocol)
    mark = "ours" if comparable else "ours, not comparable"
    return Line(
        (
            Cell(evaluation.row, mark),
            *(Cell(number(value if name == kind else None, 1)) for name in published.columns),
        ),
        "model" if comparable else "reference",
    )
