"""Tables of the report as formatted text, and sentences on how far the scores can be trusted."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd

from components.foundation.config import flatten
from components.foundation.errors import InputError
from components.reporting.results import REFERENCES, Evaluation, Score, Sweep
from components.reporting.tables.columns import HIDDEN, NOTES, SCORES, Column

# FVD between equal distributions, measured on synthetic clips: clips per side, mean FVD, standard deviation, and the
# difference that is detected with 80 % power
NULLS: Final = (
    (64, 350, 32, "a quarter of the clips are clearly worse"),
    (128, 191, 17, "a quarter of the clips are clearly worse"),
    (256, 100, 6, "a tenth of the clips are clearly worse"),
    (512, 50, 2, "a tenth of the clips are clearly worse"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: its text, a smaller text beside it, and whether it is the best of its column."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table; the first cell holds its name."""

    cells: tuple[Cell, ...]
    kind: Literal["model", "reference", "plain"] = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page: the first `text_columns` columns hold text, the others numbers."""

    heads: tuple[Cell, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def number(value: float | int | None, digits: int) -> str:
    """Format a number with `digits` decimals and narrow spaces between thousands; None and NaN give a dash."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "−")


def format_value(value: object) -> str:
    """Format the value of a parameter as in params.yaml."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)


def label(key: str) -> str:
    """Return the label of a metric with its unit."""
    column = next((column for column in SCORES if column.key == key), None)
    return key.replace("_", " ") if column is None else ", ".join(filter(None, (column.label, column.unit)))


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """Return a protocol in one line: its description if it has one, otherwise its keys and values."""
    if "description" in protocol:
        return str(protocol["description"])
    return " · ".join(f"{key.replace('_', ' ')} {format_value(value)}" for key, value in flatten(protocol).items())


def protocol_card(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Return every setting of a protocol and its data as pairs of label and value."""
    return {
        key.replace("_", " "): format_value(value) for key, value in flatten(protocol).items() if key != "description"
    }


def by_protocol(evaluations: Sequence[Evaluation]) -> tuple[tuple[Evaluation, ...], ...]:
    """Group evaluations by protocol, in order of first appearance; only equal protocols can share a table."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(json.dumps(evaluation.protocol, sort_keys=True), []).append(evaluation)
    return tuple(map(tuple, groups.values()))


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise InputError, naming the settings that differ, unless all protocols and data are equal."""
    for other in evaluations[1:]:
        first, second = flatten(evaluations[0].protocol), flatten(other.protocol)
        keys = [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]
        pairs = ", ".join(
            f"{key} ({format_value(first.get(key))}, {format_value(second.get(key))})"
            for key in keys
            if key != "description"
        )
        if keys:
            raise InputError(
                f"{evaluations[0].row} and {other.row} cannot share a table: they differ in "
                f"{pairs or 'the description of their protocols'}; score both by one protocol on the same clips"
            )


def score_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return the scores of rows of one protocol: models, with the best scores marked, then each reference once.

    Raises InputError if protocols or data differ.
    """
    check_comparable(evaluations)
    models = [
        (evaluation.row, score.name, _with_run_metrics(evaluation, score))
        for evaluation in evaluations
        for score in evaluation.scores
        if not score.reference
    ]
    references = references_of(evaluations)
    all_metrics = [metrics for _, _, metrics in models] + [score.metrics for score in references]
    candidates = [column for column in (*SCORES, *_other_columns(all_metrics)) if column.key not in HIDDEN]
    columns = [column for column in candidates if any(column.key in metrics for metrics in all_metrics)]
    bests = {column.key: _best(column, [metrics for _, _, metrics in models]) for column in columns}
    lines = [
        Line(
            (
                Cell(row, "" if name == row else name),
                *(cell(column, metrics, bests[column.key]) for column in columns),
            ),
            "model",
        )
        for row, name, metrics in models
    ]
    lines += [
        Line((Cell(score.name), *(cell(column, score.metrics, None) for column in columns)), "reference")
        for score in references
    ]
    heads = (Cell("row"), *(Cell(column.label, unit_and_arrow(column)) for column in columns))
    notes = [text for key, text in NOTES.items() if any(column.key == key for column in columns)]
    return Table(heads, tuple(lines), (*notes, *(f"{score.name}: {REFERENCES[score.name]}" for score in references)))


def references_of(evaluations: Sequence[Evaluation]) -> tuple[Score, ...]:
    """Return each reference of a protocol once; its scores are the same in every evaluation."""
    scores = {
        score.name: score for evaluation in reversed(evaluations) for score in evaluation.scores if score.reference
    }
    return tuple(scores[name] for name in REFERENCES if name in scores)


def verdicts(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Return warnings about the scores: too few clips, overlapping intervals."""
    return tuple(filter(None, (few_clips(evaluations), overlap(evaluations))))


def few_clips(evaluations: Sequence[Evaluation]) -> str:
    """Return a warning if there are too few clips for a reliable FVD, otherwise an empty string."""
    real = [int(evaluation.protocol["clips"]) for evaluation in evaluations if "clips" in evaluation.protocol]
    fake = [int(metrics["clips"]) for _, metrics in _scored(evaluations) if "clips" in metrics]
    if not fake or min(real + fake) >= NULLS[-1][0]:  # the smaller side limits the precision
        return ""
    return _small_sample(min(real + fake), references_of(evaluations))


def overlap(evaluations: Sequence[Evaluation]) -> str:
    """Return a warning if the intervals of the two best models overlap, otherwise an empty string."""
    ranked = sorted((metrics["fvd"], row, metrics) for row, metrics in _scored(evaluations))[:2]
    if len(ranked) < 2 or not all({"fvd_low", "fvd_high"} <= metrics.keys() for *_, metrics in ranked):
        return ""
    (_, first, best), (_, second, other) = ranked
    if best["fvd_high"] < other["fvd_low"]:
        return ""
    return f"The FVD intervals of {first} and {second} overlap: this evaluation cannot rank them."


def _scored(evaluations: Sequence[Evaluation]) -> list[tuple[str, dict[str, float]]]:
    """Return the row and the metrics of each model that has an FVD."""
    scores = [(one.row, score) for one in evaluations for score in one.scores]
    return [(row, score.metrics) for row, score in scores if not score.reference and "fvd" in score.metrics]


def _small_sample(clips: int, references: Iterable[Score]) -> str:
    size, null, deviation, detected = next((row for row in reversed(NULLS) if row[0] <= clips), NULLS[0])
    floor = next((score.metrics.get("fvd") for score in references if score.name == "real against real"), None)
    if floor is None:
        between = f"two equally good sets of {size} synthetic clips have an FVD of about {null} ± {deviation}"
    else:
        between = f"two sets of real clips have an FVD of {number(floor, 0)} here"
    power = f"and a difference is detected reliably only if {detected}"
    if clips < size:
        power = "and smaller sets are even less reliable"
    few = f"{clips} clips are few for FVD: {between}, {power}."
    return f"{few} Compare with the references, never with an FVD of another number of clips."


def _with_run_metrics(evaluation: Evaluation, score: Score) -> dict[str, float]:
    run = {"milliseconds_per_frame": evaluation.milliseconds_per_frame, "parameters": evaluation.parameters}
    return {key: value for key, value in run.items() if value is not None} | score.metrics


def _other_columns(all_metrics: Sequence[Mapping[str, float]]) -> list[Column]:
    known = {column.key for column in SCORES}
    unknown = dict.fromkeys(key for metrics in all_metrics for key in metrics if key not in known)
    return [Column(key, key.replace("_", " "), 3) for key in unknown if not key.endswith(("_low", "_high"))]


def _best(column: Column, metrics: Sequence[Mapping[str, float]]) -> float | None:
    values = [entry[column.key] for entry in metrics if column.key in entry]
    if column.better is None or len(values) < 2:
        return None
    return min(values) if column.better == "lower" else max(values)


def cell(column: Column, metrics: Mapping[str, float], best: float | None) -> Cell:
    """Format the value of a column with its interval, marked if it equals `best`; a dash if it is missing."""
    value = metrics.get(column.key)
    if value is None:
        return Cell("–")
    low, high = (metrics.get(f"{column.key}_{end}") for end in ("low", "high"))
    interval = ""
    if low is not None and high is not None:
        interval = f"{number(low * column.scale, column.digits)} to {number(high * column.scale, column.digits)}"
    return Cell(number(value * column.scale, column.digits), interval, best == value)


def unit_and_arrow(column: Column) -> str:
    """Return the unit of a column and an arrow in the better direction."""
    arrow = {"lower": "↓", "higher": "↑", None: ""}[column.better]
    return " ".join(filter(None, (column.unit, arrow)))


def calibration_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Return predicted and observed staticness of tokens by bin; None if no row has a canvas."""
    calibrations = {one.row: one.calibration for one in evaluations if one.calibration is not None}
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
        for row, calibration in calibrations.items()
        for bin in calibration["bins"]
    ]
    heads = ("row", "staticness", "tokens", "predicted", "observed")
    notes = tuple(
        f"{row}: mean square error of the canvas {number(calibration['canvas_error'], 3)} on standardised latents; "
        f"mean difference of predicted and observed staticness {number(calibration['staticness_error'], 3)}"
        for row, calibration in calibrations.items()
    )
    return Table(tuple(map(Cell, heads)), tuple(lines), notes, text_columns=2) if lines else None


def history_table(histories: Mapping[str, pd.DataFrame]) -> Table:
    """Return the last value of each measured term, one line per training run."""
    all_names = dict.fromkeys(str(name) for history in histories.values() for name in history)
    elsewhere = ("validation_raw_", "validation_flow_visible_", "learning_rate")  # `visible.table` shows the second
    names = [name for name in all_names if not name.startswith(elsewhere)]
    last = {row: history.ffill().iloc[-1].to_dict() for row, history in histories.items()}
    lines = (
        Line((Cell(row), *(Cell(significant(metrics.get(name))) for name in names)), "model")
        for row, metrics in last.items()
    )
    return Table((Cell("row"), *(Cell(label(name)) for name in names)), tuple(lines))


def sweep_table(sweep: Sweep) -> Table:
    """Return the trials of a search with the intervals of their scores, best first, failed ones last."""
    trials = sweep.trials.sort_values(sweep.objective, na_position="last", kind="stable")
    digits = 1 if sweep.objective == "fvd" else 4
    columns = [
        Column(sweep.objective, label(sweep.objective), digits, "lower"),
        Column(f"{sweep.objective}_difference", "difference", digits, "lower", "to the row's own"),
        Column("milliseconds_per_frame", "time per frame", 1, "lower", "ms"),
        Column("step", "steps", 0),
    ]
    columns = [column for column in columns if column.key in trials]
    lines = []
    for trial in trials.to_dict("records"):
        chosen = trial["trial"] == sweep.best
        settings = (Cell(format_value(trial[name])) for name in sweep.parameters)
        metrics = {str(key): value for key, value in trial.items() if isinstance(value, int | float) and value == value}
        results = (cell(column, metrics, trial[sweep.objective] if chosen else None) for column in columns)
        failed = "" if sweep.objective in metrics else "failed"
        name = Cell(str(trial["trial"]), failed or ("best" if chosen else ""))
        lines.append(Line((name, *settings, *results), "model" if chosen else "plain"))
    names = (Cell(name.replace("_", " ")) for name in sweep.parameters)
    heads = (Cell(column.label, unit_and_arrow(column)) for column in columns)
    return Table((Cell("trial"), *names, *heads), tuple(lines))


def usage_table(usage: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return the resource usage of each stage in the given order, with a line of totals; None without any usage."""
    total = sum(entry["seconds"] for entry in usage)
    lines = [
        Line(
            (
                Cell(f"{entry['stage']}", entry["row"]),
                Cell(entry["machine"]),
                Cell(duration(entry["seconds"]), entry["cost"]),
                Cell(number(100 * entry["seconds"] / total, 0)),
                Cell(number(entry["cpu_hours"], 3)),
                Cell(number(entry["gpu_hours"], 3)),
                Cell(number(entry["memory"] / 1024, 1)),
                Cell(entry["commit"] or "–"),
            )
        )
        for entry in usage
    ]
    totals = (Cell(number(sum(entry[key] for entry in usage), 3)) for key in ("cpu_hours", "gpu_hours"))
    lines.append(
        Line((Cell("total"), Cell(""), Cell(duration(total)), Cell("100"), *totals, Cell(""), Cell("")), "model")
    )
    heads = (
        Cell("stage"),
        Cell("machine"),
        Cell("time"),
        Cell("share", "%"),
        Cell("CPU", "h"),
        Cell("GPU", "h"),
        Cell("memory", "peak GiB"),
    )
    notes = (
        "Each line shows the last finished run of a stage. Unfinished runs are not included.",
        "CPU and GPU: hours summed over all processes. Costs are shown if params.yaml has prices.",
    )
    return Table((*heads, Cell("commit")), tuple(lines), notes, text_columns=2) if usage else None


def duration(seconds: float) -> str:
    """Format seconds in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def reason_table(rejected: pd.DataFrame) -> Table:
    """Return the reasons for rejecting videos with their counts, most frequent first."""
    counts = Counter(rejected["reason"])
    lines = (Line((Cell(reason), Cell(str(count)))) for reason, count in counts.most_common())
    return Table((Cell("reason"), Cell("videos")), tuple(lines))


def plain_table(frame: pd.DataFrame) -> Table:
    """Return a data frame of text as a table, unchanged."""
    heads = tuple(Cell(str(name)) for name in frame)
    lines = (Line(tuple(Cell(str(value)) for value in row)) for row in frame.itertuples(index=False))
    return Table(heads, tuple(lines), text_columns=len(heads))


def significant(value: Any) -> str:
    """Format a number with three significant digits, or text as it is; a dash if missing or not finite."""
    if isinstance(value, str | bool) or not isinstance(value, float | int):
        return "–" if value is None else format_value(value)
    if not math.isfinite(value):
        return "–"
    return number(value, 0) if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
