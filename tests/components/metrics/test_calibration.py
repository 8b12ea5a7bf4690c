import math

import pytest
import torch

from components.metrics.calibration import Canvases, reliability


def canvases(staticness, error, scale=1.0):
    return Canvases(torch.tensor([[staticness]]), torch.tensor([[error]]), 4, scale)


def test_bins_hold_the_mean_of_what_was_said_and_of_what_was_seen():
    told = reliability(canvases([0.12, 0.18, 0.95, 1.0], [math.log(2), math.log(4), 0.0, math.log(2)]))
    first, last = told["bins"]
    assert (first["low"], first["high"], first["tokens"]) == (0.1, 0.2, 2)
    assert (first["predicted"], first["observed"]) == (pytest.approx(0.15), pytest.approx(0.375))
    assert (last["low"], last["tokens"]) == (0.9, 2)
    assert (last["predicted"], last["observed"]) == (pytest.approx(0.975), pytest.approx(0.75))
    assert told["staticness_error"] == pytest.approx((0.225 + 0.225) / 2, rel=1e-6)
    assert told["canvas_error"] == pytest.approx((math.log(2) + math.log(4) + math.log(2)) / 4 / 4, rel=1e-6)


def test_what_is_said_of_the_truth_is_calibrated_and_a_guess_that_never_varies_shows_its_error():
    error = torch.rand(2, 3, 500) * 3
    assert reliability(Canvases(torch.exp(-0.5 * error), error, 4, 0.5))["staticness_error"] < 1e-6
    half = reliability(Canvases(torch.full_like(error, 0.5), error * 0, 4, 1.0))
    assert half["staticness_error"] == 0.5
    assert [row["tokens"] for row in half["bins"]] == [3000]
