import pytest
import torch

from components.models.layers.embeddings import FREQUENCIES, TimePosition, grid_position, patchify, sinusoid, unpatchify


@pytest.mark.parametrize("patch", [1, 2])
def test_unpatchify_undoes_patchify(patch: int) -> None:
    frames = torch.randn(2, 5, 3, 4, 6)
    tokens = patchify(frames, patch)
    assert tokens.shape == (2, 5, 24 // patch**2, 3 * patch**2)
    assert torch.equal(unpatchify(tokens, 4 // patch, patch), frames)


def test_tokens_go_row_by_row_and_hold_the_numbers_of_their_patch() -> None:
    frame = torch.arange(16.0).view(1, 4, 4)
    assert patchify(frame, 1).flatten().tolist() == list(range(16))
    assert patchify(frame, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_place_zero_is_all_zeros_and_then_all_ones() -> None:
    assert sinusoid(torch.zeros(()), 8).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_first_frequency_is_one_and_all_lie_above_a_ten_thousandth() -> None:
    angle = torch.atan2(*sinusoid(torch.ones(()), FREQUENCIES).chunk(2))
    assert angle[0].item() == pytest.approx(1.0)
    assert (angle.diff() < 0).all()
    assert angle[-1].item() == pytest.approx(1e-4, rel=0.1)


def test_likeness_of_two_places_depends_on_their_distance_alone() -> None:
    places = sinusoid(torch.arange(40.0), 64)
    likeness = places @ places.T
    torch.testing.assert_close(likeness[:-7, :-7], likeness[7:, 7:], atol=1e-4, rtol=1e-4)


def test_a_grid_names_the_column_first_and_then_the_row() -> None:
    grid = grid_position(3, 5, 16).view(3, 5, 16)
    assert torch.equal(grid[..., :8], sinusoid(torch.arange(5.0), 8).expand(3, 5, 8))
    assert torch.equal(grid[..., 8:], sinusoid(torch.arange(3.0), 8)[:, None].expand(3, 5, 8))


def test_no_two_places_of_a_grid_are_alike() -> None:
    grid = grid_position(32, 32, 1024)
    assert grid.unique(dim=0).shape == (1024, 1024)


def test_a_frame_has_the_same_position_in_a_clip_of_any_length() -> None:
    torch.manual_seed(0)
    time = TimePosition(16)
    torch.testing.assert_close(time(torch.arange(12.0))[3:5], time(torch.tensor([3.0, 4.0])))


@pytest.mark.parametrize(("width", "millions"), [(768, 0.79), (1024, 1.31)])
def test_the_position_in_time_has_as_many_parameters_as_novas(width: int, millions: float) -> None:
    with torch.device("meta"):
        time = TimePosition(width)
    assert sum(parameter.numel() for parameter in time.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
