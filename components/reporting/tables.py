"""Tables as text: what is compared, in which unit and with how many digits, and what may be concluded from it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd

from components.config import flatten
from components.errors import InputError
from components.reporting.results import REFERENCES, Evaluation, Score, Sweep

# Measured on synthetic clips, equal distributions on both sides: clips a side, FVD, its spread, what 80 % power sees
NULLS: Final = (
    (64, 350, 32, "a quarter of the clips being clearly worse"),
    (128, 191, 17, "a quarter of the clips being clearly worse"),
    (256, 100, 6, "a tenth of the clips being clearly worse"),
    (512, 50, 2, "a tenth of the clips being clearly worse"),
)

UNSHOWN: Final = ("clips", "motion", "spread")  # in the table of scores: the protocol and the ratios say it better
NOTES: Final[Mapping[str, str]] = {
    "fvd_corrected": "corrected: FVD less the bias of order 1 / N that leaving out clips shows; what bias is left is "
    "in the row real against real",
    "kvd": "KVD: a kernel's distance between the same features, 0 on average for equal sets however few, and noisier",
    "frame_distance": "frames: distance of single frames as AlexNet sees them; like FID, but not FID's numbers",
    "motion_ratio": "motion, of the truth's: 1 moves as much as the truth; frozen: moves less than a tenth of it",
    "psnr_best": "best: of the predictions of each context, the one nearest to the truth by this score",
    "spread_ratio": "spread, of the error: how far predictions of one context are from each other, for how far from "
    "the truth; 1 where the truth could be one of them, less where they are too alike",
}


@dataclass(frozen=True, slots=True)
class Column:
    """How a number is shown, and which is better."""

    key: str
    label: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    unit: str = ""
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, the smaller text beside it, and whether it is the best of its column."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: its name first."""

    cells: tuple[Cell, ...]
    kind: Literal["model", "reference", "plain"] = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """What the page shows as a table: the first `words` columns are words, the others numbers."""

    heads: tuple[Cell, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    words: int = 1


SCORES: Final = (
    Column("fvd", "FVD", 0, "lower"),
    Column("fvd_corrected", "corrected", 0, "lower", "FVD"),
    Column("kvd", "KVD", 1, "lower"),
    Column("frame_distance", "frames", 1, "lower", "distance"),
    Column("clips", "clips", 0),
    Column("psnr", "PSNR", 2, "higher", "dB"),
    Column("psnr_best", "PSNR, best", 2, "higher", "dB"),
    Column("ssim", "SSIM", 3, "higher"),
    Column("ssim_best", "SSIM, best", 3, "higher"),
    Column("lpips", "LPIPS", 3, "lower"),
    Column("lpips_best", "LPIPS, best", 3, "lower"),
    Column("motion", "motion", 1, None, "levels"),
    Column("motion_ratio", "motion", 2, None, "of the truth's"),
    Column("frozen", "frozen", 0, "lower", "%", 100.0),
    Column("spread", "spread", 1, None, "levels"),
    Column("spread_ratio", "spread", 2, None, "of the error"),
    Column("milliseconds_per_frame", "time", 1, "lower", "ms a frame"),
    Column("parameters", "size", 2, None, "M", 1e-6),
)


def number(value: float | int | None, digits: int) -> str:
    """A number with so many digits after the point and narrow spaces between thousands; a dash for what is missing."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "−")


def word(value: object) -> str:
    """A value of a parameter as it stands in params.yaml."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)


def label(key: str) -> str:
    """The name of a number, as a person reads it, with its unit."""
    known = next((column for column in SCORES if column.key == key), None)
    return key.replace("_", " ") if known is None else ", ".join(filter(None, (known.label, known.unit)))


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line: its own description, otherwise names and values."""
    if "description" in protocol:
        return str(protocol["description"])
    return " · ".join(f"{key.replace('_', ' ')} {word(value)}" for key, value in flatten(protocol).items())


def protocol_card(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Every choice of a protocol and what it was scored on, one by one."""
    return {key.replace("_", " "): word(value) for key, value in flatten(protocol).items() if key != "description"}


def by_protocol(evaluations: Sequence[Evaluation]) -> tuple[tuple[Evaluation, ...], ...]:
    """Evaluations that may stand in one table: those of equal protocols, in their own order."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(json.dumps(evaluation.protocol, sort_keys=True), []).append(evaluation)
    return tuple(map(tuple, groups.values()))


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raises InputError that names what differs, unless protocols and data are equal."""
    for other in evaluations[1:]:
        first, second = flatten(evaluations[0].protocol), flatten(other.protocol)
        keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
        told = ", ".join(
            f"{key} ({word(first.get(key))}, {word(second.get(key))})" for key in keys if key != "description"
        )
        if keys:
            raise InputError(
                f"{evaluations[0].row} and {other.row} cannot stand in one table: they differ in "
                f"{told or 'how their protocols are described'}; score both by one protocol on the same clips"
            )


def score_table(evaluations: Sequence[Evaluation]) -> Table:
    """Scores of rows of one protocol: the models, best numbers marked, and each reference once.

    Raises InputError if protocols or data differ.
    """
    check_comparable(evaluations)
    models = [
        (evaluation.row, score.name, _whole(evaluation, score))
        for evaluation in evaluations
        for score in evaluation.scores
        if not score.reference
    ]
    references = references_of(evaluations)
    every = [numbers for _, _, numbers in models] + [score.numbers for score in references]
    known = [column for column in (*SCORES, *_others(every)) if column.key not in UNSHOWN]
    columns = [column for column in known if any(column.key in numbers for numbers in every)]
    bests = {column.key: _best(column, [numbers for _, _, numbers in models]) for column in columns}
    lines = [
        Line(
            (
                Cell(row, "" if name == row else name),
                *(cell(column, numbers, bests[column.key]) for column in columns),
            ),
            "model",
        )
        for row, name, numbers in models
    ]
    lines += [
        Line((Cell(score.name), *(cell(column, score.numbers, None) for column in columns)), "reference")
        for score in references
    ]
    heads = (Cell("row"), *(Cell(column.label, sign(column)) for column in columns))
    notes = [text for key, text in NOTES.items() if any(column.key == key for column in columns)]
    return Table(heads, tuple(lines), (*notes, *(f"{score.name}: {REFERENCES[score.name]}" for score in references)))


def references_of(evaluations: Sequence[Evaluation]) -> tuple[Score, ...]:
    """The references of a protocol, each once: they are the same for every row."""
    found = {
        score.name: score for evaluation in reversed(evaluations) for score in evaluation.scores if score.reference
    }
    return tuple(found[name] for name in REFERENCES if name in found)


def verdicts(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """What these scores can and cannot say: clips too few to mean much, intervals that overlap."""
    return tuple(filter(None, (few_clips(evaluations), overlap(evaluations))))


def few_clips(evaluations: Sequence[Evaluation]) -> str:
    """A sentence where the clips are too few for their FVD to mean much, otherwise nothing."""
    real = [int(evaluation.protocol["clips"]) for evaluation in evaluations if "clips" in evaluation.protocol]
    fake = [int(found["clips"]) for _, found in _scored(evaluations) if "clips" in found]
    if not fake or min(real + fake) >= NULLS[-1][0]:  # the shorter side says how much a score can mean
        return ""
    return _small_sample(min(real + fake), references_of(evaluations))


def overlap(evaluations: Sequence[Evaluation]) -> str:
    """A sentence where the intervals of the two best models overlap, otherwise nothing."""
    ranked = sorted((found["fvd"], row, found) for row, found in _scored(evaluations))[:2]
    if len(ranked) < 2 or not all({"fvd_low", "fvd_high"} <= found.keys() for *_, found in ranked):
        return ""
    (_, first, best), (_, second, other) = ranked
    if best["fvd_high"] < other["fvd_low"]:
        return ""
    return f"The FVD intervals of {first} and {second} overlap: this evaluation does not tell them apart."


def _scored(evaluations: Sequence[Evaluation]) -> list[tuple[str, dict[str, float]]]:
    """The models that have an FVD, and their numbers."""
    lines = [(one.row, score) for one in evaluations for score in one.scores]
    return [(row, score.numbers) for row, score in lines if not score.reference and "fvd" in score.numbers]


def _small_sample(clips: int, references: Iterable[Score]) -> str:
    size, null, spread, seen = next((row for row in reversed(NULLS) if row[0] <= clips), NULLS[0])
    here = next((score.numbers.get("fvd") for score in references if score.name == "real against real"), None)
    measured = "" if here is None else f" (here, real against real reads {number(here, 0)})"
    few = f"{clips} clips are few for FVD: at {size} a side, two equally good sets are about {null} ± {spread} apart"
    power = f"and only something as coarse as {seen} is seen reliably"
    if clips < size:
        power = "and smaller sets say less still"
    return f"{few}{measured}, {power}. Compare with the references, never with numbers from another count of clips."


def _whole(evaluation: Evaluation, score: Score) -> dict[str, float]:
    run = {"milliseconds_per_frame": evaluation.milliseconds_per_frame, "parameters": evaluation.parameters}
    return {key: value for key, value in run.items() if value is not None} | score.numbers


def _others(every: Sequence[Mapping[str, float]]) -> list[Column]:
    known = {column.key for column in SCORES}
    found = dict.fromkeys(key for numbers in every for key in numbers if key not in known)
    return [Column(key, key.replace("_", " "), 3) for key in found if not key.endswith(("_low", "_high"))]


def _best(column: Column, numbers: Sequence[Mapping[str, float]]) -> float | None:
    values = [entry[column.key] for entry in numbers if column.key in entry]
    if column.better is None or len(values) < 2:
        return None
    return min(values) if column.better == "lower" else max(values)


def cell(column: Column, numbers: Mapping[str, float], best: float | None) -> Cell:
    """A number as its column shows it, with its interval, marked if it is the best; a dash for what is missing."""
    value = numbers.get(column.key)
    if value is None:
        return Cell("–")
    low, high = (numbers.get(f"{column.key}_{end}") for end in ("low", "high"))
    interval = ""
    if low is not None and high is not None:
        interval = f"{number(low * column.scale, column.digits)} to {number(high * column.scale, column.digits)}"
    return Cell(number(value * column.scale, column.digits), interval, best == value)


def sign(column: Column) -> str:
    """The unit of a column and which way is better."""
    arrow = {"lower": "↓", "higher": "↑", None: ""}[column.better]
    return " ".join(filter(None, (column.unit, arrow)))


def calibration_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """What was said of how still tokens are and what was seen of it, bin by bin; None where no row has a canvas."""
    told = {one.row: one.calibration for one in evaluations if one.calibration is not None}
    lines = [
        Line(
            (
                Cell(row),
                Cell(f"{bin['low']:.1f}–{bin['high']:.1f}"),
                Cell(number(bin["tokens"], 0)),
                Cell(number(bin["predicted"], 3)),
                Cell(number(bin["observed"], 3)),
            )
        )
        for row, calibration in told.items()
        for bin in calibration["bins"]
    ]
    heads = ("row", "staticness", "tokens", "predicted", "observed")
    notes = tuple(
        f"{row}: mean square error of the canvas {number(calibration['canvas_error'], 3)} of standardised latents; "
        f"predicted and observed staticness are {number(calibration['staticness_error'], 3)} apart on average"
        for row, calibration in told.items()
    )
    return Table(tuple(map(Cell, heads)), tuple(lines), notes, words=2) if lines else None


def history_table(histories: Mapping[str, pd.DataFrame]) -> Table:
    """How each training ended: the last number measured of each kind."""
    every = dict.fromkeys(str(name) for history in histories.values() for name in history)
    names = [name for name in every if not name.startswith("validation_raw_") and name != "learning_rate"]
    last = {row: history.ffill().iloc[-1].to_dict() for row, history in histories.items()}
    lines = (
        Line((Cell(row), *(Cell(significant(numbers.get(name))) for name in names)), "model")
        for row, numbers in last.items()
    )
    return Table((Cell("row"), *(Cell(label(name)) for name in names)), tuple(lines))


def sweep_table(sweep: Sweep) -> Table:
    """The trials of a search, best first, failed ones last."""
    trials = sweep.trials.sort_values(sweep.objective, na_position="last", kind="stable")
    speed = ["milliseconds_per_frame"] if "milliseconds_per_frame" in trials else []
    keys = [*sweep.parameters, sweep.objective, *speed]
    lines = []
    for trial in trials.to_dict("records"):
        chosen = trial["trial"] == sweep.best
        parameters = (Cell(word(trial[name])) for name in sweep.parameters)
        measured = (sweep.objective, *speed)
        digits = 1 if sweep.objective == "fvd" else 4
        results = (
            Cell(number(trial[key], digits if key == sweep.objective else 1), best=chosen and key == sweep.objective)
            for key in measured
        )
        failed = "failed" if trial[sweep.objective] != trial[sweep.objective] else "best" if chosen else ""
        lines.append(Line((Cell(str(trial["trial"]), failed), *parameters, *results), "model" if chosen else "plain"))
    labels = {"fvd": Cell("FVD", "↓"), "milliseconds_per_frame": Cell("time a frame", "ms ↓")}
    heads = (Cell("trial"), *(labels.get(key, Cell(key.replace("_", " "))) for key in keys))
    return Table(heads, tuple(lines))


def cost_table(costs: Sequence[Mapping[str, Any]]) -> Table | None:
    """What each stage took and where, in the order given; the sum last. None where nothing is known."""
    total = sum(entry["seconds"] for entry in costs)
    lines = [
        Line(
            (
                Cell(f"{entry['stage']}", entry["row"]),
                Cell(entry["machine"]),
                Cell(duration(entry["seconds"]), entry["paid"]),
                Cell(number(100 * entry["seconds"] / total, 0)),
                Cell(number(entry["cpu_hours"], 3)),
                Cell(number(entry["gpu_hours"], 3)),
                Cell(number(entry["memory"] / 1024, 1)),
                Cell(entry["commit"] or "–"),
            )
        )
        for entry in costs
    ]
    sums = (Cell(number(sum(entry[key] for entry in costs), 3)) for key in ("cpu_hours", "gpu_hours"))
    lines.append(Line((Cell("all"), Cell(""), Cell(duration(total)), Cell("100"), *sums, Cell(""), Cell("")), "model"))
    heads = (
        Cell("stage"),
        Cell("machine"),
        Cell("time"),
        Cell("share", "%"),
        Cell("CPU", "h"),
        Cell("GPU", "h"),
        Cell("memory", "GiB, most"),
    )
    notes = (
        "Each stage as it last ran to its end, whatever of it was run anew since.",
        "CPU and GPU: hours of all processes together; `prices` in params.yaml turns them into money.",
    )
    return Table((*heads, Cell("commit")), tuple(lines), notes, words=2) if costs else None


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def reason_table(rejected: pd.DataFrame) -> Table:
    """Why videos were rejected, the most frequent reason first."""
    counts = Counter(rejected["reason"])
    lines = (Line((Cell(reason), Cell(str(count)))) for reason, count in counts.most_common())
    return Table((Cell("reason"), Cell("videos")), tuple(lines))


def plain_table(frame: pd.DataFrame) -> Table:
    """A frame of words as it stands."""
    heads = tuple(Cell(str(name)) for name in frame)
    lines = (Line(tuple(Cell(str(value)) for value in row)) for row in frame.itertuples(index=False))
    return Table(heads, tuple(lines), words=len(heads))


def significant(value: Any) -> str:
    """A number of unknown size with three digits that count; a word as it is."""
    if isinstance(value, str | bool) or not isinstance(value, float | int):
        return "–" if value is None else word(value)
    if not math.isfinite(value):
        return "–"
    return number(value, 0) if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
