import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.metrics.distances.frechet import Gaussian, distance, frechet


def draw(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + seed


def test_the_distance_of_scaled_and_shifted_axes_is_exact() -> None:
    x = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])  # axes uncorrelated, variances 4/3, 4/3, 0
    y = x * torch.tensor([3.0, 0.5, 1]) + torch.tensor([2.0, 0, 1])
    expected = 2**2 + 1**2 + 4 / 3 * ((3 - 1) ** 2 + (1 - 0.5) ** 2)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-12)
    assert distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("counts", [(20, 20), (20, 300), (300, 20), (300, 200), (2, 2)])
def test_both_forms_agree_with_few_clips_and_with_many(counts: tuple[int, int]) -> None:
    x, y = draw(counts[0], 40, 1), draw(counts[1], 40, 2)
    assert distance(Gaussian.fit(x), Gaussian.fit(y)) == pytest.approx(frechet(x, y), rel=1e-11)


def test_it_is_the_textbook_formula_where_that_is_stable() -> None:
    x, y = draw(500, 6, 1), draw(400, 6, 2)
    a, b = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * root
    assert frechet(x, y) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("count", [2, 30, 500])
def test_the_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    x = draw(count, 40, 1)
    gaussian = Gaussian.fit(x)
    assert 0 <= frechet(x, x) < 1e-9
    assert 0 <= distance(gaussian, gaussian) < 1e-9


def test_the_distance_is_symmetric() -> None:
    x, y = draw(30, 40, 1), draw(50, 40, 2)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-12)


def test_parts_of_a_set_add_up_to_the_whole() -> None:
    x = draw(100, 12, 3)
    whole, first, *others = (Gaussian.fit(part) for part in (x, x[:1], x[1:40], x[40:]))
    for other in others:
        first = first + other
    assert first.count == whole.count
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first.scatter, whole.scatter, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(whole.covariance, torch.cov(x.T), rtol=1e-10, atol=1e-10)


def test_float32_features_are_summed_in_float64() -> None:
    x, y = draw(300, 8, 1).float() + 1000, draw(300, 8, 1).float() + 1000
    assert Gaussian.fit(x).scatter.dtype == torch.float64
    assert frechet(x, y) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_an_input_error_that_names_the_clip(value: float) -> None:
    x, y = draw(5, 3, 1), draw(5, 3, 2)
    x[3, 1] = value
    with pytest.raises(InputError, match="clip 3 are not finite"):
        frechet(x, y)
    with pytest.raises(InputError, match="clip 3 are not finite"):
        Gaussian.fit(x)


def test_fewer_than_two_clips_are_an_input_error() -> None:
    x, y = draw(5, 3, 1), draw(1, 3, 2)
    with pytest.raises(InputError, match="at least 2 clips in each set, not 1"):
        frechet(x, y)
    with pytest.raises(InputError, match="at least two clips, not 1"):
        distance(Gaussian.fit(x), Gaussian.fit(y))
    with pytest.raises(InputError, match="at least 1 clips in each set, not 0"):
        Gaussian.fit(x[:0])
