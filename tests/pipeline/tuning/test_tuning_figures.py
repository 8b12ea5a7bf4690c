"""Figures of ablations."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.tuning import figures


def table(**arms: list[float]) -> pd.DataFrame:
    """A table of points: from an arm's name to the FVDs at 2, 4, ... sets."""
    lines = [
        {"arm": name.replace("_", " "), "sets": 2 ** (1 + place), "fvd": fvd, "fvd_low": fvd - 9, "fvd_high": fvd + 9}
        for name, fvds in arms.items()
        for place, fvd in enumerate(fvds)
    ]
    return pd.DataFrame(lines)


def shows(content: bytes, colour: str, opaque: float = 1.0) -> bool:
    """Whether a picture has this colour, drawn on white."""
    wanted = [opaque * part + (1 - opaque) * 255 for part in bytes.fromhex(colour[1:])]
    seen = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    return bool((np.abs(seen - np.array(wanted)).max(axis=1) <= 2).any())


def test_every_arm_of_an_ablation_is_a_line_in_its_colour_and_failed_points_are_left_out() -> None:
    drawn = figures.ablation(table(a=[30.0, 20.0], b=[np.nan, 15.0], c=[np.nan, np.nan]), "sets")
    assert [shows(drawn, colour) for colour in figures.ARMS[:3]] == [True, True, False]


def test_arms_of_one_point_are_bars() -> None:
    drawn = figures.ablation(table(none=[30.0], temporal_alone=[20.0]), "canvas_scale")
    assert all(shows(drawn, colour, 0.85) for colour in figures.ARMS[:2])


def test_the_axis_of_an_ablation_may_be_words_and_a_score_without_interval() -> None:
    words = table(a=[30.0, 20.0]).assign(order=["random", "greedy"], fvd_low=None, fvd_high=None)
    assert Image.open(io.BytesIO(figures.ablation(words, "order"))).format == "PNG"
    alone = table(a=[30.0]).assign(fvd_low=None, fvd_high=None)
    assert Image.open(io.BytesIO(figures.ablation(alone, "order"))).format == "PNG"
