import pytest
import torch

from components.metrics.distances import intervals

X = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def without(statistic):
    block = intervals.blocks_of(len(X), len(X), 24)
    return lambda *gone: float(statistic(X[~torch.isin(block, torch.tensor(gone))]))


def test_a_mean_has_the_standard_error_of_the_textbook_and_no_bias():
    shown = intervals.jackknife(without(torch.mean), 24)
    assert shown.error == pytest.approx(float(X.std() / 24**0.5), rel=1e-6)
    assert shown.bias == pytest.approx(0, abs=1e-12)


def test_a_variance_over_n_is_corrected_to_that_over_n_minus_one():
    found = intervals.estimate(without(lambda x: x.var(correction=0)), 24)
    assert found.corrected == pytest.approx(float(X.var(correction=1)), rel=1e-9)


def test_a_square_of_a_mean_loses_exactly_its_bias():
    found = intervals.estimate(without(lambda x: x.mean() ** 2), 24)
    assert found.corrected == pytest.approx(float(X.mean() ** 2 - X.var() / 24), rel=1e-9)


def test_fewer_than_eight_blocks_give_the_value_alone():
    assert intervals.estimate(lambda *gone: 3.0, 7) == intervals.Estimate(3.0, None, None, None)


def test_blocks_keep_a_clip_with_its_predictions_and_neighbours_together():
    assert intervals.blocks_of(8, 4, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert intervals.blocks_of(4, 4, 2).tolist() == [0, 0, 1, 1]
