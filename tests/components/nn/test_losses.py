import pytest
import torch

from components.nn.losses import Losses


def test_the_total_is_the_weighted_sum_of_the_terms_and_a_term_without_weight_does_not_count() -> None:
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0), "psnr": torch.tensor(30.0)}
    losses = Losses.weighted(terms, {"a": 1.0, "b": 0.1})
    assert losses.total.item() == pytest.approx(2.3)
    assert set(losses.terms) == {"a", "b", "psnr"}


def test_the_total_can_be_followed_back_and_the_terms_cannot() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    losses = Losses.weighted({"square": x**2}, {"square": 0.5})
    losses.total.backward()
    assert x.grad is not None
    assert x.grad.item() == 2.0
    assert not losses.terms["square"].requires_grad


def test_a_weight_without_a_term_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="lpips"):
        Losses.weighted({"a": torch.tensor(1.0)}, {"lpips": 1.0})


def test_the_losses_of_a_batch_are_the_means_of_its_parts_by_their_shares() -> None:
    parts = [(share, Losses.weighted({"a": torch.tensor(a)}, {"a": 2.0})) for share, a in ((0.75, 1.0), (0.25, 5.0))]
    mean = Losses.mean(parts)
    assert mean.total.item() == pytest.approx(4.0)
    assert mean.terms["a"].item() == pytest.approx(2.0)
