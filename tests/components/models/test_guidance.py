import pytest
import torch

from components.models import guidance


def scores(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 2, 7, generator=torch.Generator().manual_seed(0)).unbind(0))


@pytest.mark.parametrize("scales", [(1.2, 1.5), (1.1, 2.25), (0.0, 0.0), (3.0,), ()])
def test_coefficients_sum_to_one(scales: tuple[float, ...]) -> None:
    assert sum(guidance.coefficients(scales)) == pytest.approx(1.0)


@pytest.mark.parametrize(("temporal", "canvas"), [(1.2, 1.5), (1.1, 2.25), (0.5, 0.0), (1.0, 1.0)])
def test_three_conditions_are_equation_nine_to_the_letter(temporal: float, canvas: float) -> None:
    nothing, history, both = scores(3)
    literal = nothing + temporal * (history - nothing) + canvas * (both - history)
    found = guidance.combine([nothing, history, both], guidance.coefficients((temporal, canvas)))
    torch.testing.assert_close(found, literal)


def test_two_conditions_are_classifier_free_guidance() -> None:
    nothing, history = scores(2)
    found = guidance.combine([nothing, history], guidance.coefficients((1.5,)))
    torch.testing.assert_close(found, nothing + 1.5 * (history - nothing))


def test_scales_of_one_need_the_richest_condition_alone() -> None:
    assert guidance.coefficients((1.0, 1.0)) == (0.0, 0.0, 1.0)


def test_scales_of_zero_need_the_poorest_condition_alone() -> None:
    assert guidance.coefficients((0.0, 0.0)) == (1.0, 0.0, 0.0)


def test_equal_scales_skip_the_condition_between() -> None:
    assert guidance.coefficients((1.3, 1.3))[1] == 0.0


def test_a_single_score_of_weight_one_is_left_as_it_is() -> None:
    (score,) = scores(1)
    assert torch.equal(guidance.combine([score], (1.0,)), score)


def test_as_many_weights_as_scores_are_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        guidance.combine(scores(3), (0.5, 0.5))


def test_each_of_the_three_drops_has_the_same_chance() -> None:
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    history, canvas = guidance.drops(uniform, 0.05)
    cases = {
        "history only": history & ~canvas,
        "canvas only": canvas & ~history,
        "both": history & canvas,
    }
    for name, case in cases.items():
        assert case.float().mean().item() == pytest.approx(0.05, abs=0.003), name


def test_the_three_drops_lie_side_by_side() -> None:
    history, canvas = guidance.drops(torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, 0.99]), 0.25)
    assert canvas.tolist() == [True, True, False, False, True, True, False, False]
    assert history.tolist() == [False, False, True, True, True, True, False, False]


def test_with_no_chance_nothing_is_dropped() -> None:
    history, canvas = guidance.drops(torch.linspace(0, 0.999, 50), 0.0)
    assert not (history | canvas).any()
