import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.foundation.errors import InputError
from components.models import masking
from components.models.masking import MaskConfig, Rule

PAPER = MaskConfig(mean=1.0, std=0.25, low=0.7)
RULES: tuple[Rule, ...] = get_args(Rule)
SIZES = {
    (256, 2): (75, 181),
    (256, 4): (19, 56, 83, 98),
    (256, 6): (9, 25, 41, 53, 62, 66),
    (256, 8): (5, 14, 24, 32, 39, 44, 48, 50),
    (256, 10): (3, 10, 15, 21, 26, 31, 34, 37, 39, 40),
    (256, 11): (3, 7, 13, 18, 22, 25, 30, 32, 34, 36, 36),
    (256, 12): (2, 7, 10, 15, 19, 22, 25, 28, 30, 32, 33, 33),
    (1024, 8): (20, 58, 95, 127, 155, 177, 192, 200),
}


def maps(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def chances(rows: int, sets: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(rows, sets, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tokens", "sets"), SIZES)
def test_set_sizes_are_those_of_the_cosine(tokens: int, sets: int) -> None:
    assert masking.set_sizes(tokens, sets) == SIZES[tokens, sets]


@given(tokens=st.integers(1, 1024), data=st.data())
def test_set_sizes_are_positive_and_sum_to_all_tokens(tokens: int, data: st.DataObject) -> None:
    sets = data.draw(st.integers(1, tokens))
    sizes = masking.set_sizes(tokens, sets)
    assert sum(sizes) == tokens
    assert min(sizes) > 0
    assert len(sizes) <= sets


@pytest.mark.parametrize("sets", [-1, 0, 17])
def test_a_number_of_sets_that_tokens_cannot_fill_is_refused(sets: int) -> None:
    with pytest.raises(InputError, match=rf"sampler.sets is {sets}, .* choose a number from 1 to 16"):
        masking.set_sizes(16, sets)


def test_mask_ratios_follow_the_truncated_normal_law() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = 1_000_000  # so that rounding to whole tokens does not matter
    ratios = 1 - torch.tensor([masking.visible_count(tokens, PAPER, generator) for _ in range(5000)]) / tokens
    assert ratios.mean().item() == pytest.approx(0.867, abs=0.01)
    assert ratios.median().item() == pytest.approx(0.874, abs=0.01)
    assert (ratios > 0.9).float().mean().item() == pytest.approx(0.40, abs=0.02)
    assert ratios.min().item() >= 0.7
    assert ratios.max().item() <= 1.0


def test_no_ratio_shows_more_tokens_than_the_lowest_allows() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [masking.visible_count(256, PAPER, generator) for _ in range(2000)]
    assert max(counts) <= round(0.3 * 256)
    assert min(counts) >= 0


def test_the_same_generator_gives_the_same_count() -> None:
    first, second = (masking.visible_count(1024, PAPER, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second


def test_a_permutation_is_one_for_each_row() -> None:
    order = masking.permutation(chances(3, 4, 16))
    assert torch.equal(order.sort(dim=-1).values, torch.arange(16).expand(3, 4, 16))
    assert not torch.equal(order[0, 0], order[0, 1])


@given(rule=st.sampled_from(RULES), tokens=st.integers(1, 64), temperature=st.floats(0, 100), data=st.data())
def test_a_partition_takes_every_token_once(rule: Rule, tokens: int, temperature: float, data: st.DataObject) -> None:
    """Also where the staticness and the random numbers are at the ends of their ranges."""
    sizes = masking.set_sizes(tokens, data.draw(st.integers(1, tokens)))
    numbers = st.sampled_from([0.0, 1e-30, 0.3, 0.5, 1.0])
    still = torch.tensor(data.draw(st.lists(numbers, min_size=tokens, max_size=tokens)))[None]
    uniform = data.draw(st.just(chances(1, len(sizes), tokens)) | numbers.map(lambda x: torch.full_like(still, x)))
    order = masking.partition(still, uniform.expand(1, len(sizes), tokens), sizes, rule=rule, temperature=temperature)
    assert torch.equal(order.sort(dim=1).values, torch.arange(tokens)[None])


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_a_row_does_not_depend_on_the_other_rows(rule: Rule) -> None:
    still, uniform, sizes = maps(3, 64), chances(3, 5, 64), masking.set_sizes(64, 5)
    together = masking.partition(still, uniform, sizes, rule=rule, temperature=6.5)
    alone = masking.partition(still[1:2], uniform[1:2], sizes, rule=rule, temperature=6.5)
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize(("constant", "temperature"), [(False, 0.0), (True, 6.5)])
def test_without_temperature_or_with_constant_staticness_the_order_is_the_random_one(
    constant: bool, temperature: float
) -> None:
    still = torch.full((8, 256), 0.5) if constant else maps(8, 256)
    sizes, uniform = masking.set_sizes(256, 4), chances(8, 4, 256)
    biased = masking.partition(still, uniform, sizes, rule="motion_aware", temperature=temperature)
    plain = masking.partition(still, uniform, sizes, rule="random", temperature=0.0)
    for step in range(4):
        where = masking.set_index(biased, sizes) == step
        assert torch.equal(where, masking.set_index(plain, sizes) == step)


def test_random_order_does_not_look_at_staticness() -> None:
    sizes, uniform = masking.set_sizes(64, 4), chances(2, 4, 64)
    orders = [masking.partition(maps(2, 64, s), uniform, sizes, rule="random", temperature=6.5) for s in (0, 1)]
    assert torch.equal(orders[0], orders[1])


def test_greedy_takes_the_stillest_tokens_first() -> None:
    still = maps(2, 64)
    order = masking.partition(still, chances(2, 4, 64), masking.set_sizes(64, 4), rule="greedy", temperature=6.5)
    assert torch.equal(order, still.argsort(dim=1, descending=True))


def test_maskgit_without_temperature_is_greedy() -> None:
    still, uniform, sizes = maps(2, 64), chances(2, 4, 64), masking.set_sizes(64, 4)
    rules: tuple[Rule, ...] = ("maskgit", "maskgit_plain", "greedy")
    orders = [masking.partition(still, uniform, sizes, rule=rule, temperature=0.0) for rule in rules]
    assert torch.equal(orders[0], orders[2])
    assert torch.equal(orders[1], orders[2])


FORMULAS: dict[Rule, Callable[[float, float, int], float]] = {  # of s, g, k, with temperature 6.5 and four sets
    "motion_aware": lambda s, g, k: 6.5 * (1 - k / 4) * s + g,
    "maskgit": lambda s, g, k: math.log(s) + 6.5 * (1 - (k + 1) / 4) * g,
    "maskgit_plain": lambda s, g, k: s + 6.5 * (1 - (k + 1) / 4) * g,
}


@pytest.mark.parametrize("rule", FORMULAS)
def test_each_set_is_the_best_of_what_is_left_by_the_formula(rule: Rule) -> None:
    still, uniform = maps(1, 16)[0], chances(1, 4, 16)[0]
    sizes = masking.set_sizes(16, 4)
    left, expected = set(range(16)), []
    for k, size in enumerate(sizes):

        def score(j: int, k: int = k) -> float:
            gumbel = -math.log(-math.log(uniform[k, j].item()))
            return FORMULAS[rule](still[j].item(), gumbel, k)

        best = sorted(left, key=score, reverse=True)[:size]
        expected += best
        left -= set(best)
    order = masking.partition(still[None], uniform[None], sizes, rule=rule, temperature=6.5)
    assert order[0].tolist() == expected


def test_motion_aware_order_goes_from_still_to_moving() -> None:
    still = (maps(64, 256) > 0.15).float()  # a map of which 15 % moves
    sizes = masking.set_sizes(256, 4)
    order = masking.partition(still, chances(64, 4, 256), sizes, rule="motion_aware", temperature=6.5)
    means = [part.mean().item() for part in still.gather(1, order).split(sizes, dim=1)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.97
    assert means[-1] < 0.75


def test_certain_and_impossible_chances_still_make_an_order() -> None:
    uniform = torch.zeros(1, 2, 16)
    uniform[:, :, 8:] = 1.0
    order = masking.partition(torch.ones(1, 16), uniform, (8, 8), rule="random", temperature=0.0)
    assert set(order[0, :8].tolist()) == set(range(8, 16))


def test_set_index_says_when_each_place_was_taken() -> None:
    order = torch.tensor([[3, 0, 2, 1], [0, 1, 2, 3]])
    assert masking.set_index(order, (1, 3)).tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
