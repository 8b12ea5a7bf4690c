"""Figures of a search and of an ablation, as PNG."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

AXIS_LABELS: Final = {"fvd": "FVD", "milliseconds_per_frame": "milliseconds per frame"}
CHOSEN, OTHER, GREY = "#d55e00", "#0072b2", "#8a94a3"
ARMS: Final = (OTHER, CHOSEN, "#009e73", "#aa4499", "#b8860b", "#4c4c4c")  # distinguishable with colour blindness


def front(table: pd.DataFrame, objectives: Sequence[str], best: int) -> bytes:
    """Plot the first objective with its interval against the second as PNG, the front as a line, `best` as a star."""
    y, x = objectives[:2]
    trials = table.dropna(subset=[x, y])
    pareto = trials[trials["front"]].sort_values(x)
    picture, panel = _panel()
    if {f"{y}_low", f"{y}_high"} <= set(trials):
        intervals = trials.dropna(subset=[f"{y}_low", f"{y}_high"])
        panel.vlines(intervals[x], intervals[f"{y}_low"], intervals[f"{y}_high"], color=GREY, linewidth=1, alpha=0.6)
    panel.plot(pareto[x], pareto[y], color=OTHER, linewidth=1.2, drawstyle="steps-post", label="Pareto front")
    panel.scatter(trials[x], trials[y], s=26, color=[OTHER if front else GREY for front in trials["front"]], zorder=3)
    chosen = trials[trials["trial"] == best]
    panel.scatter(chosen[x], chosen[y], s=150, marker="*", color=CHOSEN, zorder=4, label="chosen")
    for _, row in pareto.iterrows():
        panel.annotate(f"{row['trial']}", (row[x], row[y]), (5, 5), textcoords="offset points", fontsize=8)
    panel.set_xlabel(f"{AXIS_LABELS.get(x, x.replace('_', ' '))} (lower is better)")
    panel.set_ylabel(f"{AXIS_LABELS.get(y, y.replace('_', ' '))} (lower is better), 95 % interval")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=9)
    return _png(picture)


def ablation(table: pd.DataFrame, along: str) -> bytes:
    """Plot FVD with its interval against the setting `along`, one line per arm; draw arms of one point each as bars."""
    scored = table.dropna(subset=["fvd"]).astype({"fvd_low": float, "fvd_high": float})
    arms = list(scored.groupby("arm", sort=False))
    picture, panel = _panel()
    if all(len(arm) == 1 for _, arm in arms):
        for index, (name, arm) in enumerate(arms):
            panel.barh(index, arm["fvd"], height=0.62, color=ARMS[index % len(ARMS)], alpha=0.85, label=str(name))
            panel.hlines([index], arm["fvd_low"], arm["fvd_high"], color="black", linewidth=1.6)
        panel.set_yticks(range(len(arms)), [str(name) for name, _ in arms])
        panel.invert_yaxis()
        panel.set_xlabel("FVD (lower is better), 95 % interval")
    else:
        values = sorted(scored[along].unique())
        shifts = 0.08 * (np.arange(len(arms)) - (len(arms) - 1) / 2)  # so that intervals at the same x do not overlap
        for index, ((name, arm), shift) in enumerate(zip(arms, shifts, strict=True)):
            x, colour = np.array([values.index(value) for value in arm[along]]) + shift, ARMS[index % len(ARMS)]
            panel.vlines(x, arm["fvd_low"], arm["fvd_high"], color=colour, linewidth=1.2, alpha=0.7)
            panel.plot(x, arm["fvd"], "o-", color=colour, linewidth=1.8, markersize=4, label=str(name))
        panel.set_xticks(range(len(values)), [str(value) for value in values])
        panel.set_xlabel(along.replace("_", " "))
        panel.set_ylabel("FVD (lower is better), 95 % interval")
        panel.legend(frameon=False, fontsize=9)
    panel.grid(alpha=0.3)
    return _png(picture)


def _panel() -> tuple[Figure, Axes]:
    picture = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(picture)
    return picture, picture.subplots()


def _png(picture: Figure) -> bytes:
    file = io.BytesIO()
    picture.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
