import pytest
import torch

from components.nn.autoencoders.interface import sample, to_float, to_uint8, transitions


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


class Counting:
    """An autoencoder that only counts frames."""

    channels, causal, frame_formula = 1, True, ""

    def __init__(self, first: int, stride: int) -> None:
        self.first, self.strides = first, (stride, 1)

    def latent_frames(self, frames: int) -> int:
        raise NotImplementedError

    encode = decode = latent_frames

    def pixel_frames(self, latent_frames: int) -> int:
        return self.first + (latent_frames - 1) * self.strides[0]


@pytest.mark.parametrize(
    ("first", "stride", "frames", "expected"),
    [
        (1, 2, 7, [(0, 2), (2, 4), (4, 6)]),  # causal: a first frame alone
        (1, 4, 12, [(0, 4), (4, 8)]),  # of a fourth latent frame the last pixel frame is not there
        (1, 1, 3, [(0, 1), (1, 2)]),
        (4, 4, 12, [(3, 7), (7, 11)]),  # whole groups of four
        (1, 4, 4, []),
    ],
)
def test_transitions_lead_from_the_last_pixel_frame_of_a_latent_frame_to_that_of_the_next(
    first, stride, frames, expected
):
    found = transitions(Counting(first, stride), frames)
    assert [(part.start, part.stop) for part in found] == expected
