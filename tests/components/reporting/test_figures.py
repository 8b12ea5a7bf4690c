import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.reporting import figures, results
from components.reporting.tables import drift, visible


@pytest.fixture
def histories(finished):
    return {row: results.read_history(finished / row / "training") for row in ("with-canvas", "no-canvas")}


@pytest.fixture
def evaluations(finished):
    return [results.read_evaluation(finished / row / "evaluation") for row in ("with-canvas", "no-canvas")]


def opened(content):
    return Image.open(io.BytesIO(content))


def colours(content):
    return {tuple(colour) for colour in np.asarray(opened(content).convert("RGB")).reshape(-1, 3).tolist()}


def shows(content, colour):
    return any(max(abs(one - other) for one, other in zip(seen, colour, strict=True)) <= 2 for seen in colours(content))


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def test_equal_input_gives_equal_bytes_without_date_or_program(histories):
    first, second = (figures.loss_curves(histories, figures.LIGHT) for _ in range(2))
    assert first == second
    assert opened(first).text == {}


def test_each_row_has_its_own_colour_and_the_theme_its_paper(histories):
    for theme in (figures.LIGHT, figures.DARK):
        seen = colours(figures.loss_curves(histories, theme))
        assert {rgb(theme.paper), rgb(theme.palette[0]), rgb(theme.palette[1])} <= seen


def test_the_loss_by_visible_tokens_has_a_line_in_each_rows_colour(histories):
    seen = colours(figures.visible_curves(visible.curves(histories), figures.LIGHT))
    assert {rgb(colour) for colour in figures.LIGHT.palette[:2]} <= seen


def test_a_narrow_figure_stacks_its_panels(histories):
    wide = opened(figures.loss_curves(histories, figures.LIGHT))
    narrow = opened(figures.loss_curves(histories, figures.LIGHT, narrow=True))
    assert narrow.width < wide.width / 2
    assert narrow.height > wide.height


def test_histories_with_gaps_and_few_lines_are_drawn():
    short = pd.DataFrame({"step": [1], "loss": [0.5]})
    gaps = pd.DataFrame({"step": [1, 2], "loss": [None, None], "canvas": [1.0, None]})
    assert opened(figures.loss_curves({"short": short, "gaps": gaps}, figures.LIGHT)).format == "PNG"
    assert opened(figures.loss_curves({}, figures.LIGHT)).format == "PNG"


def test_bars_show_every_model_in_its_colour(evaluations):
    bars = figures.score_bars(evaluations, figures.LIGHT)
    for colour in figures.LIGHT.palette[:2]:
        assert shows(bars, [0.85 * part + 0.15 * 255 for part in rgb(colour)])


def test_drift_has_a_panel_for_each_score_measured_and_a_line_for_each_model(evaluations):
    lines = drift.lines_of(evaluations)
    seen = colours(figures.drift(lines, figures.LIGHT))
    assert {rgb(colour) for colour in figures.LIGHT.palette[:2]} <= seen
    windows = [
        dataclasses.replace(one, metrics=one.metrics | {"fvd": 9.0, "ssim": 1.0}) for one in lines["with-canvas"]
    ]
    assert (
        opened(figures.drift({"a": windows}, figures.LIGHT, narrow=True)).height
        == 3 * opened(figures.drift({"a": lines["with-canvas"]}, figures.LIGHT, narrow=True)).height
    )


def test_a_full_grid_is_a_map_and_anything_else_panels(finished, builders):
    grid = figures.search(results.read_sweep(finished / "sweep"), figures.LIGHT)
    builders["trials"](finished / "sweep", order=["random", "motion", "random", "greedy"])
    panels = figures.search(results.read_sweep(finished / "sweep"), figures.LIGHT)
    far = rgb("#fde725")  # the end of the map's scale
    assert shows(grid, far)
    assert not shows(panels, far)
    builders["trials"](finished / "sweep", status=["finished", "stopped", "failed", "finished"])
    assert not shows(figures.search(results.read_sweep(finished / "sweep"), figures.LIGHT), far)
    assert opened(panels).height > opened(grid).height
