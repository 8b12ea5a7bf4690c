import torch

from components.autoencoders.interface import sample, to_float, to_uint8


def test_every_grey_level_survives_the_journey_to_numbers_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(levels)), levels)


def test_black_is_minus_one_and_white_is_one() -> None:
    assert to_float(torch.tensor([[[0, 255]]], dtype=torch.uint8)).tolist() == [[[-1.0, 1.0]]]


def test_what_lies_outside_is_clamped_and_the_rest_rounded() -> None:
    numbers = torch.tensor([[[-3.0, 3.0, 0.4 / 127.5 - 1.0, 0.6 / 127.5 - 1.0]]])
    assert to_uint8(numbers).tolist() == [[[0, 255, 0, 1]]]


def test_a_sample_is_the_mean_plus_the_standard_deviation_times_the_noise() -> None:
    mean, log_variance, noise = torch.randn(3, 2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    moments = torch.cat([mean, log_variance], dim=2)
    expected = mean + log_variance.exp().sqrt() * noise
    assert torch.allclose(sample(moments, noise), expected, atol=1e-6)
    assert torch.equal(sample(moments, torch.zeros_like(noise)), mean)
