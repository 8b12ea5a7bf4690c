import pytest
import torch
from torch import Tensor

from components.foundation.errors import InputError
from components.metrics.distances import kernel


def draw(count: int, seed: int, shift: float = 0.0, width: int = 12) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def naive(x: Tensor, y: Tensor) -> float:
    """Pair by pair."""

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    own = [sum(k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j) for a in (x, y)]
    across = sum(k(a, b) for a in x for b in y)
    n, m = len(x), len(y)
    return own[0] / (n * (n - 1)) + own[1] / (m * (m - 1)) - 2 * across / (n * m)


@pytest.mark.parametrize(("counts", "blocks"), [((9, 14), 0), ((20, 40), 8), ((33, 17), 16), ((2, 3), 16)])
def test_the_distance_agrees_with_a_loop_over_pairs(counts: tuple[int, int], blocks: int) -> None:
    x, y = draw(counts[0], 1), draw(counts[1], 2, shift=0.5)
    assert kernel.score(x, y, blocks).value == pytest.approx(naive(x, y), rel=1e-9)


def test_leaving_out_a_block_is_the_distance_of_what_is_left() -> None:
    x, y = draw(8, 1), draw(16, 2)
    found = kernel.score(x, y, 8)
    singles = [naive(x[torch.arange(8) != gone], y[torch.arange(16) // 2 != gone]) for gone in range(8)]
    bias = 7 * (sum(singles) / 8 - naive(x, y))
    assert found.corrected == pytest.approx(found.value - bias, rel=1e-6)


def test_points_have_the_distance_that_is_worked_out_by_hand() -> None:
    # one dimension, all at 1 against all at 0: k(1, 1) = 8, k(0, .) = 1, so 8 + 1 - 2
    assert kernel.kernel_distance(torch.ones(3, 1), torch.zeros(4, 1)) == 7


def test_equal_distributions_are_zero_on_average_however_few_the_clips() -> None:
    values = torch.tensor([kernel.kernel_distance(draw(10, 2 * seed), draw(10, 2 * seed + 1)) for seed in range(300)])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert (values < 0).any()
    assert kernel.kernel_distance(draw(10, 1), draw(10, 2, shift=1.0)) > 3 * values.std()


def test_the_interval_is_as_wide_as_the_spread_over_new_clips_says_within_30_percent() -> None:
    pairs = [(draw(40, 2 * seed), draw(40, 2 * seed + 1, shift=0.4)) for seed in range(100)]
    spread = float(torch.tensor([kernel.kernel_distance(*pair) for pair in pairs]).std())
    scores = [kernel.score(*pair, 8) for pair in pairs[:20]]
    errors = [(score.high - score.value) / 1.96 for score in scores if score.high is not None]
    assert 0.7 < sum(errors) / 20 / spread < 1.3


def test_too_few_clips_and_nan_are_input_errors() -> None:
    with pytest.raises(InputError, match="at least 2 clips in each set, not 1"):
        kernel.kernel_distance(draw(1, 1), draw(40, 2))
    broken = draw(4, 1)
    broken[2, 3] = float("nan")
    with pytest.raises(InputError, match="features of clip 2 are not finite"):
        kernel.kernel_distance(draw(4, 2), broken)
