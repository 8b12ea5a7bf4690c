"""The paper's Tables 1 and 2 with our rows, and whether these may be read beside the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from components.reporting.results import Evaluation
from components.reporting.tables import Cell, Line, Table, number, word


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A table of the paper; `protocol` is what its numbers were scored by, as far as the paper says it."""

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
        "start": "first",
        "context": 5,
        "context_scored": True,
        "frames": 11,
        "resolution": 64,
    },
    "*: perhaps scored at 128x128. The paper takes a random clip of each video, and its 5 + 11 frames from DFoT.",
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
    "DFVD: starts drawn at random in each video, real clips from the same starts (MAGVIT).",
)
PUBLISHED: Final = (KINETICS, BAIR)


def differences(published: Published, protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a protocol is not as the table's, in words; none where all that is named agrees."""
    return tuple(
        f"{key.replace('_', ' ')} {word(protocol.get(key))} instead of {word(expected)}"
        for key, expected in published.protocol.items()
        if protocol.get(key) != expected
    )


def verdict(published: Published, evaluation: Evaluation) -> str:
    """Whether a row may be read beside the table's numbers, and if not, why not."""
    found = differences(published, evaluation.protocol)
    if found:
        return f"{evaluation.row} is not comparable: {', '.join(found)}."
    return (
        f"{evaluation.row} is scored as the paper says it scores, as far as it says it. That makes it comparable if "
        f"the clips (hash {evaluation.protocol.get('clips_hash')}) are of the genuine test videos; "
        "the other rows name neither their resize nor their I3D file, which are worth a few percent."
    )


def table(published: Published, evaluations: Sequence[Evaluation]) -> Table:
    """The paper's rows, then ours, each marked with whether it belongs there, and the verdicts as notes."""
    lines = [Line(tuple(Cell(text or "–") for text in row)) for row in published.rows]
    lines += [_own(published, evaluation) for evaluation in evaluations]
    heads = (Cell("method"), *(Cell(name, "↓") for name in published.columns))
    return Table(heads, tuple(lines), (published.note, *(verdict(published, one) for one in evaluations)))


def _own(published: Published, evaluation: Evaluation) -> Line:
    """A row of ours: its FVD in the column of its kind of starts."""
    kind = "DFVD" if evaluation.protocol.get("start") == "random" else "FVD"
    own = evaluation.line(evaluation.row)
    value = None if own is None else own.numbers.get("fvd")
    comparable = not differences(published, evaluation.protocol)
    mark = "ours" if comparable else "ours, not comparable"
    return Line(
        (
            Cell(evaluation.row, mark),
            *(Cell(number(value if name == kind else None, 1)) for name in published.columns),
        ),
        "model" if comparable else "reference",
    )
