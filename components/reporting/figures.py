"""Figures of the report as PNG, for a light and a dark page; equal input gives equal bytes."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components.reporting.results import REFERENCES, Evaluation, Score, Sweep, Window
from components.reporting.tables.drift import PLOTTED
from components.reporting.tables.tables import label, number, references_of, significant

WIDE: Final = 9.6  # inches, on a desktop screen
NARROW: Final = 4.4  # inches, on a phone
DOTS: Final = 150  # per inch
_DASHES: Final = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (2, 1)))  # line styles of the references
_NOT_TERMS: Final = ("step", "seconds", "epoch", "steps_per_second", "data_wait", "learning_rate")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page. The palette is distinguishable with colour blindness (after Okabe and Ito)."""

    ink: str
    soft: str
    grid: str
    paper: str
    palette: tuple[str, ...]
    scale: str  # name of a matplotlib colormap


LIGHT: Final = Theme(
    "#1f2733",
    "#5b6675",
    "#e3e7ec",
    "#ffffff",
    ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#4c4c4c"),
    "viridis",
)
DARK: Final = Theme(
    "#e8ecf1",
    "#9aa6b5",
    "#2f3843",
    "#161b22",
    ("#56b4e9", "#f0883e", "#2fc49a", "#e08bd0", "#e6c34a", "#c0c0c0"),
    "viridis_r",
)


def loss_curves(histories: Mapping[str, pd.DataFrame], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot each loss term against the training step, one panel per term, one line per row, dots for validation."""
    names = dict.fromkeys(str(name) for history in histories.values() for name in history)
    terms = [name for name in names if name not in _NOT_TERMS and not name.startswith("validation_")]
    terms = ["loss"] * ("loss" in terms) + [name for name in terms if name != "loss"]
    with _figure(len(terms), theme, narrow, 2.7) as (figure, panels):
        for term, panel in zip(terms, panels, strict=False):
            for (row, history), colour in zip(histories.items(), _colours(theme), strict=False):
                _curve(panel, history, term, row, colour)
            panel.set_title(term.replace("_", " "), loc="left")
            panel.set_xlabel("step")
            _scale(panel)
        _legend(figure, panels, theme)
        return _png(figure, theme)


def visible_curves(curves: Mapping[str, Mapping[int, float]], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the flow loss of the last validation against the number of visible tokens, one line per row."""
    with _figure(1, theme, narrow, 2.7) as (figure, (panel,)):
        for (row, curve), colour in zip(curves.items(), _colours(theme), strict=False):
            panel.plot(list(curve), list(curve.values()), "o-", color=colour, linewidth=1.8, markersize=4, label=row)
        panel.set_title("flow loss", loc="left")
        panel.set_xlabel("visible tokens per frame")
        _legend(figure, [panel], theme)
        return _png(figure, theme)


def score_bars(evaluations: Sequence[Evaluation], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the FVD of models and references as bars with intervals; a dashed line marks real against real."""
    models = [
        (evaluation.row, score.metrics)
        for evaluation in evaluations
        for score in evaluation.scores
        if not score.reference and "fvd" in score.metrics
    ]
    references = [score for score in references_of(evaluations) if "fvd" in score.metrics]
    lines = len(models) + len(references)
    with _figure(1, theme, narrow, 0.9 + 0.42 * max(lines, 1)) as (figure, (panel,)):
        for position, ((row, metrics), colour) in enumerate(zip(models, _colours(theme), strict=False)):
            _bar(panel, position, row, metrics, colour, theme)
        for position, score in enumerate(references, start=len(models)):
            _bar(panel, position, score.name, score.metrics, theme.soft, theme)
            if score.name == "real against real":
                panel.axvline(score.metrics["fvd"], color=theme.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        _rows(panel, [row for row, _ in models] + [score.name for score in references])
        panel.set_xlabel("FVD, lower is better; dashed: real against real")
        return _png(figure, theme)


def latency(evaluations: Sequence[Evaluation], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the milliseconds per predicted frame of the models as bars."""
    timed = [(one.row, one.milliseconds_per_frame) for one in evaluations if one.milliseconds_per_frame is not None]
    with _figure(1, theme, narrow, 0.9 + 0.42 * max(len(timed), 1)) as (figure, (panel,)):
        for position, ((_, milliseconds), colour) in enumerate(zip(timed, _colours(theme), strict=False)):
            panel.barh(position, milliseconds, height=0.62, color=colour, alpha=0.85, zorder=2)
            _annotate(panel, milliseconds, position, number(milliseconds, 1), theme)
        _rows(panel, [row for row, _ in timed])
        panel.set_xlabel("milliseconds per frame, lower is better")
        return _png(figure, theme)


def calibration(rows: Mapping[str, Mapping[str, Any]], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot observed against predicted staticness of each row with the diagonal, and the share of tokens in each bin."""
    with _figure(2, theme, narrow, 3.1) as (figure, panels):
        for index, ((row, row_calibration), colour) in enumerate(zip(rows.items(), _colours(theme), strict=False)):
            bins = row_calibration["bins"]
            predicted, observed, tokens = ([bin[key] for bin in bins] for key in ("predicted", "observed", "tokens"))
            panels[0].plot(predicted, observed, "o-", color=colour, linewidth=1.8, markersize=4, label=row)
            share, width = np.array(tokens) / sum(tokens), 0.08 / len(rows)
            left = np.array([bin["low"] + 0.01 for bin in bins]) + index * width
            panels[1].bar(left, 100 * share, width=width, align="edge", color=colour, alpha=0.85)
        panels[0].plot([0, 1], [0, 1], color=theme.soft, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        panels[0].set_title("observed staticness", loc="left")
        panels[1].set_title("tokens, %", loc="left")
        for panel in panels:
            panel.set_xlim(0, 1)
            panel.set_xlabel("predicted staticness")
        panels[0].set_ylim(0, 1)
        _legend(figure, panels, theme)
        return _png(figure, theme)


def against_time(points: Mapping[str, tuple[float, Score]], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the FVD of each row with its interval against the milliseconds of sampling one clip."""
    with _figure(1, theme, narrow, 3.6) as (figure, (panel,)):
        for (row, (time, score)), colour in zip(points.items(), _colours(theme), strict=False):
            fvd = score.metrics["fvd"]
            ends = [[fvd - score.metrics.get("fvd_low", fvd)], [score.metrics.get("fvd_high", fvd) - fvd]]
            panel.errorbar(time, fvd, yerr=ends, fmt="o", color=colour, label=row, capsize=3)
        panel.set_xscale("log")
        panel.set_xlabel("milliseconds per clip at batch 1; lower is better on both axes")
        panel.set_title("FVD", loc="left")
        _legend(figure, [panel], theme)
        return _png(figure, theme)


def drift(lines: Mapping[str, Sequence[Window]], theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the scores of windows against their last frame, one panel per score; references are dashed."""
    keys = [key for key in PLOTTED if any(key in window.metrics for windows in lines.values() for window in windows)]
    models = dict(zip((name for name in lines if name not in REFERENCES), _colours(theme), strict=False))
    dashes = dict(zip((name for name in lines if name in REFERENCES), _DASHES, strict=False))
    with _figure(len(keys), theme, narrow, 2.7) as (figure, panels):
        for key, panel in zip(keys, panels, strict=False):
            for name, windows in lines.items():
                points = [(window.last, window.metrics[key]) for window in windows if key in window.metrics]
                style: dict[str, Any] = {"color": theme.soft, "linewidth": 1.2, "linestyle": dashes.get(name)}
                if name in models:
                    style = {"color": models[name], "linewidth": 1.8, "marker": "o", "markersize": 4}
                if points:
                    panel.plot(*zip(*points, strict=True), label=name, **style)
            panel.set_title(label(key), loc="left")
            panel.set_xlabel("last frame of the window")
        _legend(figure, panels, theme)
        return _png(figure, theme)


def search(sweep: Sweep, theme: Theme, *, narrow: bool = False) -> bytes:
    """Plot the objective of a search: as a heat map if two parameters form a grid, else one panel per parameter.

    The last panel plots the objective against the time per frame, if the time was measured.
    """
    scored = sweep.trials.dropna(subset=[sweep.objective])
    timed = "milliseconds_per_frame" in scored and scored["milliseconds_per_frame"].notna().any()
    grid = _grid(scored, sweep)
    axes: list[str] = [] if grid is not None else list(sweep.parameters)
    axes += ["milliseconds_per_frame"] * bool(timed)
    with _figure(len(axes) + (grid is not None), theme, narrow, 3.1) as (figure, panels):
        if grid is not None:
            _map(panels[0], grid, sweep, theme)
        for name, panel in zip(axes, panels[grid is not None :], strict=False):
            _scatter(panel, scored, name, sweep, theme)
        return _png(figure, theme)


def _curve(panel: Axes, history: pd.DataFrame, term: str, row: str, colour: str) -> None:
    if term in history:
        measured = history[["step", term]].dropna()
        smooth = measured[term].ewm(span=max(len(measured) // 20, 1)).mean()
        panel.plot(measured["step"], measured[term], color=colour, alpha=0.25, linewidth=1)
        panel.plot(measured["step"], smooth, color=colour, linewidth=1.8, label=row)
    validation_term = f"validation_{term}"
    if validation_term in history:
        measured = history[["step", validation_term]].dropna()
        panel.plot(measured["step"], measured[validation_term], "o", color=colour, markersize=4, markeredgewidth=0)


def _scale(panel: Axes) -> None:
    """Use a logarithmic y axis if all values are positive and span more than a factor of 12."""
    series = [np.asarray(line.get_ydata(), dtype=float) for line in panel.get_lines()]
    values = np.concatenate([*series, np.empty(0)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 12 * values.min():
        panel.set_yscale("log")


def _bar(panel: Axes, position: int, name: str, metrics: Mapping[str, float], colour: str, theme: Theme) -> None:
    value = metrics["fvd"]
    low, high = metrics.get("fvd_low", value), metrics.get("fvd_high", value)
    panel.barh(position, value, height=0.62, color=colour, alpha=0.85, zorder=2)
    panel.plot([low, high], [position, position], color=theme.ink, linewidth=1.6, zorder=3, solid_capstyle="butt")
    _annotate(panel, max(value, high), position, number(value, 0), theme)


def _annotate(panel: Axes, end: float, position: int, text: str, theme: Theme) -> None:
    panel.annotate(text, (end, position), (6, 0), textcoords="offset points", va="center", color=theme.ink)


def _rows(panel: Axes, names: Sequence[str]) -> None:
    """Set up the axes of horizontal bars, the first on top."""
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)
    panel.margins(x=0.12)
    panel.set_xlim(left=0)


def _grid(scored: pd.DataFrame, sweep: Sweep) -> pd.DataFrame | None:
    """Return the objective as a grid over two numeric parameters, if at least half of the grid was tried; else None.

    Also None if trials were stopped early, because their scores are of fewer steps.
    """
    parameters = sweep.parameters
    if (scored["status"] == "stopped").any():
        return None
    if len(parameters) != 2 or not all(pd.api.types.is_numeric_dtype(scored[name]) for name in parameters):
        return None
    table = scored.pivot_table(index=parameters[0], columns=parameters[1], values=sweep.objective, aggfunc="min")
    full = min(table.shape) > 1 and len(scored) >= table.size / 2
    return table if full else None


def _map(panel: Axes, table: pd.DataFrame, sweep: Sweep, theme: Theme) -> None:
    picture = panel.imshow(table.to_numpy(), cmap=theme.scale, aspect="auto")
    panel.set_yticks(range(len(table.index)), [f"{value:g}" for value in table.index])
    panel.set_xticks(range(len(table.columns)), [f"{value:g}" for value in table.columns])
    panel.set_ylabel(str(table.index.name).replace("_", " "))
    panel.set_xlabel(str(table.columns.name).replace("_", " "))
    panel.set_title(f"{label(sweep.objective)} (star: chosen)", loc="left")
    panel.grid(visible=False)
    best_scores = sweep.trials.loc[sweep.trials["trial"] == sweep.best, sweep.objective].to_numpy()
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        red, green, blue, _ = picture.cmap(picture.norm(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        shade = theme.soft if value != value else "#ffffff" if dark else "#101418"
        best = "★ " if value in best_scores else ""
        panel.text(
            column,
            row,
            "failed" if value != value else best + significant(value),
            ha="center",
            va="center",
            color=shade,
        )


def _scatter(panel: Axes, scored: pd.DataFrame, name: str, sweep: Sweep, theme: Theme) -> None:
    chosen = (scored["trial"] == sweep.best).to_numpy()
    values, labels = _scatter_positions(scored[name])
    scores = scored[sweep.objective].to_numpy(dtype=float)
    own = f"{sweep.objective}_difference"
    ends = (f"{own}_low", f"{own}_high") if own in scored else (f"{sweep.objective}_low", f"{sweep.objective}_high")
    if set(ends) <= set(scored):
        # of the difference to the row's own settings, whose score is one number on these axes
        base = scores - scored[own].to_numpy(dtype=float) if own in scored else 0.0
        low, high = (base + scored[end].to_numpy(dtype=float) for end in ends)
        panel.vlines(values, low, high, color=theme.palette[0], alpha=0.35, linewidth=1.2)
    stopped = (scored["status"] == "stopped").to_numpy()  # scored after fewer steps
    for part, alpha in ((~chosen & ~stopped, 0.75), (~chosen & stopped, 0.3)):
        panel.scatter(values[part], scores[part], s=26, color=theme.palette[0], alpha=alpha, linewidths=0)
    panel.scatter(values[chosen], scores[chosen], s=130, marker="*", color=theme.palette[1], linewidths=0, zorder=3)
    if labels:
        panel.set_xticks(range(len(labels)), labels)
    panel.set_xlabel("milliseconds per frame" if name == "milliseconds_per_frame" else name.replace("_", " "))
    pale = "; pale: stopped early" if stopped.any() else ""
    panel.set_title(f"{label(sweep.objective)} (star: chosen{pale})", loc="left")


def _scatter_positions(column: pd.Series) -> tuple[Float[np.ndarray, "n"], list[str]]:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=float), []
    codes, labels = pd.factorize(column.astype(str), sort=True)
    return codes.astype(float), [str(label) for label in labels]


def _colours(theme: Theme) -> Iterator[str]:
    while True:
        yield from theme.palette


@contextmanager
def _figure(count: int, theme: Theme, narrow: bool, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """Open a figure with `count` panels, at most three per row; four panels form two rows."""
    columns = 1 if narrow else 2 if count == 4 else min(max(count, 1), 3)
    rows = -(-max(count, 1) // columns)
    with matplotlib.rc_context(_style(theme)):
        figure = Figure(figsize=(NARROW if narrow else WIDE, height * rows), dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for unused in panels[max(count, 1) :]:
            unused.set_axis_off()
        yield figure, panels[: max(count, 1)]


def _style(theme: Theme) -> Any:
    text = dict.fromkeys(("xtick.color", "ytick.color", "axes.labelcolor"), theme.soft)
    plain = {f"axes.spines.{side}": False for side in ("top", "right", "left")}
    paper = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.paper)
    return {
        **text,
        **plain,
        **paper,
        "text.color": theme.ink,
        "axes.edgecolor": theme.soft,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlecolor": theme.ink,
        "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same on every machine
        "font.size": 9,
        "ytick.major.size": 0,
        "legend.frameon": False,
    }


def _legend(figure: Figure, panels: Sequence[Axes], theme: Theme) -> None:
    entries: dict[str, Any] = {}
    for panel in panels:
        entries |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper left",
            ncols=3 if figure.get_figwidth() == WIDE else 2,
            labelcolor=theme.ink,
            fontsize=9,
        )


def _png(figure: Figure, theme: Theme, *, narrow: bool = False) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=theme.paper, metadata={"Software": None})
    return file.getvalue()
