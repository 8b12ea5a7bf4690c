"""The Pareto front of a search: what is not beaten in every respect at once; and its figure."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WORDS: Final = {"fvd": "FVD", "milliseconds_per_frame": "milliseconds a frame"}
CHOSEN, OTHER, GREY = "#d55e00", "#0072b2", "#8a94a3"


def on_front(table: pd.DataFrame, objectives: Sequence[str]) -> list[bool]:
    """Which rows no other row beats: none is at least as good in all objectives (lower) and better in one."""
    values = table[list(objectives)].to_numpy(dtype=float)
    whole = np.isfinite(values).all(axis=1)
    beaten = [any((other <= own).all() and (other < own).any() for other in values[whole]) for own in values]
    return [bool(there and not lost) for there, lost in zip(whole, beaten, strict=True)]


def figure(table: pd.DataFrame, objectives: Sequence[str], best: int) -> bytes:
    """The first objective with its interval against the second, as PNG: the front joined, the chosen one a star."""
    y, x = objectives[:2]
    drawn = table.dropna(subset=[x, y])
    front = drawn[drawn["front"]].sort_values(x)
    picture = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(picture)
    panel = picture.subplots()
    if {f"{y}_low", f"{y}_high"} <= set(drawn):
        ends = drawn.dropna(subset=[f"{y}_low", f"{y}_high"])
        panel.vlines(ends[x], ends[f"{y}_low"], ends[f"{y}_high"], color=GREY, linewidth=1, alpha=0.6)
    panel.plot(front[x], front[y], color=OTHER, linewidth=1.2, drawstyle="steps-post", label="Pareto front")
    panel.scatter(drawn[x], drawn[y], s=26, color=[OTHER if kept else GREY for kept in drawn["front"]], zorder=3)
    chosen = drawn[drawn["trial"] == best]
    panel.scatter(chosen[x], chosen[y], s=150, marker="*", color=CHOSEN, zorder=4, label="chosen")
    for _, row in front.iterrows():
        panel.annotate(f"{row['trial']}", (row[x], row[y]), (5, 5), textcoords="offset points", fontsize=8)
    panel.set_xlabel(f"{WORDS.get(x, x.replace('_', ' '))} (lower is better)")
    panel.set_ylabel(f"{WORDS.get(y, y.replace('_', ' '))} (lower is better), 95 % interval")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=9)
    file = io.BytesIO()
    picture.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
