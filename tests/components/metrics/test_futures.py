import pytest
import torch

from components.metrics import futures


def test_the_best_of_a_contexts_predictions_is_the_highest_psnr_and_the_lowest_lpips():
    scores = {"psnr": torch.tensor([10.0, 20.0, 30.0, 5.0]), "lpips": torch.tensor([0.5, 0.25, 0.0, 1.0])}
    assert futures.best_of(scores, 2) == {"psnr_best": 25.0, "lpips_best": 0.125}
    assert futures.best_of(scores, 1) == {"psnr_best": 16.25, "lpips_best": 0.4375}


def test_the_spread_is_that_of_a_loop_over_pairs():
    predictions, truth = torch.randn(6, 2, 5), torch.randn(2, 2, 5)
    told = futures.diversity(predictions, truth)
    pairs = [(3 * b + i, 3 * b + j) for b in range(2) for i in range(3) for j in range(i)]
    apart = sum(float((predictions[i] - predictions[j]).square().mean()) for i, j in pairs) / 6
    error = sum(float((predictions[3 * b + i] - truth[b]).square().mean()) for b in range(2) for i in range(3)) / 6
    assert told["spread"] == pytest.approx(apart**0.5, rel=1e-5)
    assert told["spread_ratio"] == pytest.approx((apart / error) ** 0.5, rel=1e-5)


def test_bytes_do_not_run_over():
    dark, light = torch.zeros(1, 3, dtype=torch.uint8), torch.full((1, 3), 255, dtype=torch.uint8)
    assert futures.diversity(torch.cat([dark, light]), dark)["spread"] == 255


@pytest.mark.parametrize("distribution", [torch.randn, torch.rand])
def test_predictions_drawn_as_the_truth_is_have_a_ratio_of_one(distribution):
    generator = torch.Generator().manual_seed(0)
    centre = 10 * torch.randn(400, 1, 8, generator=generator)
    every = centre + distribution(400, 5, 8, generator=generator)
    told = futures.diversity(every[:, 1:].flatten(0, 1), every[:, 0])
    assert told["spread_ratio"] == pytest.approx(1, abs=0.02)


def test_equal_predictions_have_no_spread_and_a_perfect_one_no_ratio():
    truth = torch.randn(3, 4)
    assert futures.diversity((truth + 1).repeat_interleave(2, dim=0), truth) == {"spread": 0, "spread_ratio": 0}
    assert futures.diversity(truth.repeat_interleave(2, dim=0), truth) == {"spread": 0}
