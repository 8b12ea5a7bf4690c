import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.nn import pixels


def noise(count: int, frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def flat(level: int) -> Tensor:
    return torch.full((1, 2, 3, 16, 16), level, dtype=torch.uint8)


def naive(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two planes, window after window."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (plane[row : row + 11, column : column + 11].astype(np.float64) for plane in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            values.append(top / ((mean_a**2 + mean_b**2 + c1) * (variance + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("step", [1, 10, 255])
def test_psnr_of_a_constant_error_is_known_in_decibels(step: int) -> None:
    assert pixels.psnr(flat(0), flat(step)).item() == pytest.approx(20 * math.log10(255 / step), abs=1e-5)


def test_psnr_is_infinite_for_equal_clips_and_not_for_one_equal_frame() -> None:
    x, y = noise(2, 2, 8, 8), noise(2, 2, 8, 8)
    y[1, 0] = 255 - y[1, 0]
    equal, half = pixels.psnr(x, y).tolist()
    assert equal == math.inf
    assert 0 < half < 20


def test_psnr_belongs_to_each_clip_alone() -> None:
    x, y = noise(3, 2, 8, 8), noise(3, 2, 8, 8, seed=1)
    alone = torch.cat([pixels.psnr(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.equal(pixels.psnr(x, y), alone)


def test_ssim_agrees_with_a_loop_over_windows() -> None:
    x, y = noise(2, 2, 14, 17), noise(2, 2, 14, 17, seed=1)
    y = (0.6 * x.float() + 0.4 * y.float()).to(torch.uint8)
    expected = [
        np.mean([naive(x[b, f, c].numpy(), y[b, f, c].numpy()) for f in range(2) for c in range(3)]) for b in range(2)
    ]
    assert pixels.ssim(x, y).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0, 255), (10, 20), (200, 180)])
def test_ssim_of_flat_clips_is_the_luminance_term(a: int, b: int) -> None:
    c1 = (0.01 * 255) ** 2
    assert pixels.ssim(flat(a), flat(b)).item() == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-5)


def test_ssim_is_one_for_equal_clips_symmetric_and_negative_for_a_negative() -> None:
    x, y = noise(2, 2, 16, 16), noise(2, 2, 16, 16, seed=1)
    assert pixels.ssim(x, x).tolist() == [1, 1]
    assert torch.equal(pixels.ssim(x, y), pixels.ssim(y, x))
    assert (pixels.ssim(x, 255 - x) < -0.5).all()


def test_more_noise_means_less_psnr_and_less_ssim() -> None:
    x = torch.arange(0, 256, 8, dtype=torch.float32).expand(1, 1, 3, 32, 32)
    shaken = [(x + (noise(1, 1, 32, 32) / 255 - 0.5) * size).clamp(0, 255).to(torch.uint8) for size in (10, 40, 160)]
    for measure in (pixels.psnr, pixels.ssim):
        values = [measure(x.to(torch.uint8), y).item() for y in shaken]
        assert values == sorted(values, reverse=True)


def test_frames_smaller_than_the_window_are_an_input_error() -> None:
    with pytest.raises(InputError, match="at least 11x11 pixels, not 10x20"):
        pixels.ssim(noise(1, 1, 10, 20), noise(1, 1, 10, 20))
