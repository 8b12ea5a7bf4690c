"""Pareto front of a search."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def on_front(table: pd.DataFrame, objectives: Sequence[str]) -> list[bool]:
    """Return for each row whether it is on the Pareto front; objectives are minimised.

    A row is on the front if no other row is at least as good in all objectives and better in one. Rows with a missing
    objective are not on the front.
    """
    values = table[list(objectives)].to_numpy(dtype=float)
    complete = np.isfinite(values).all(axis=1)
    dominated = [any((other <= own).all() and (other < own).any() for other in values[complete]) for own in values]
    return [bool(whole and not worse) for whole, worse in zip(complete, dominated, strict=True)]
