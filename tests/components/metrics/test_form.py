import itertools

import pytest
import torch
from torch.nn import functional

from components.metrics import form, motion

WALL, SIZE = 60.0, 48


def disc(x: float, y: float, radius: float = 6.0) -> torch.Tensor:
    """A striped disc on a plain wall."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    inside = (rows - y).square() + (columns - x).square() <= radius**2
    stripes = torch.where((columns - int(x)) % 4 < 2, 220.0, 140.0)
    frame = torch.where(inside, stripes, torch.tensor(WALL))
    return torch.stack([frame, frame * 0.5 + 20, 255 - frame])


def video(way: list[tuple[int, int]]) -> torch.Tensor:
    return torch.stack([disc(x, y) for x, y in way])[None]


def rounded(clips: torch.Tensor) -> torch.Tensor:
    return clips.round().clamp(0, 255).byte()


EMPTY = torch.stack([torch.full((SIZE, SIZE), value) for value in (WALL, WALL * 0.5 + 20, 255 - WALL)])
TRUTH = video([(12 + 2 * step, 16) for step in range(9)])


def blurred(clips: torch.Tensor, sigma: float) -> torch.Tensor:
    places = torch.arange(-8, 9).float()
    weights = torch.softmax(-places.square() / (2 * sigma**2), dim=0)
    planes = functional.pad(clips[0].flatten(0, 1)[:, None], (8, 8, 8, 8), mode="replicate")
    planes = functional.conv2d(functional.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.unflatten(0, clips.shape[1:3])[:, :, 0][None]


def distance(clips: torch.Tensor, truth: torch.Tensor = TRUTH) -> float | None:
    """Of the frames after the first, which is given."""
    fake, real = rounded(clips), rounded(truth)
    moves = [motion.moving(real[:, 0].expand(len(one), -1, -1, -1), one[:, 1:]) for one in (fake, real)]
    return form.distance(fake[:, 1:], real[:, 1:], moves[0], moves[1], torch.device("cpu"))


def falling(found: list[float | None]) -> bool:
    return all(
        first < second for first, second in itertools.pairwise(found) if first is not None and second is not None
    )


def test_a_disc_that_moves_rigidly_is_perfect_wherever_it_is() -> None:
    assert distance(TRUTH) == 0
    assert distance(video([(12 + step, 16 + 2 * step) for step in range(9)])) == pytest.approx(0, abs=1e-4)
    assert distance(TRUTH[:, :1].expand_as(TRUTH)) == pytest.approx(0, abs=1e-4)


def test_a_disc_that_fades_is_worse_in_proportion() -> None:
    found = [distance(TRUTH + share * (EMPTY - TRUTH)) for share in (0.25, 0.5, 1.0)]
    assert found[2] is not None
    assert found[:2] == [pytest.approx(found[2] / 4, rel=0.02), pytest.approx(found[2] / 2, rel=0.02)]


def test_a_disc_that_blurs_or_dissolves_into_noise_is_worse_the_more_it_does() -> None:
    noise = 255 * torch.rand(TRUTH.shape, generator=torch.Generator().manual_seed(0))
    softened = [blurred(TRUTH, sigma) for sigma in (0.5, 1.0, 2.0, 4.0)]
    present = (TRUTH[:, :, :1] != WALL).expand_as(TRUTH)
    dissolved = [torch.where(present, TRUTH + share * (noise - TRUTH), TRUTH) for share in (0.1, 0.3, 0.6, 1.0)]
    for one in (softened, dissolved):
        assert falling([distance(TRUTH), *map(distance, one)])


def test_a_grey_level_more_everywhere_is_a_distance_of_one_where_all_moves() -> None:
    torch.manual_seed(0)
    truth = (200 * torch.rand(2, 3, 3, 16, 16)).byte()
    all_moves = torch.ones(2, 16, 16, dtype=torch.bool)
    assert form.distance(truth + 5, truth, all_moves, all_moves, torch.device("cpu")) == pytest.approx(5, rel=1e-4)


def test_a_prediction_that_changes_where_both_are_alike_gains_nothing() -> None:
    """Otherwise flicker far away would make a lost form look small."""
    worse = 0.5 * (TRUTH[:, :1].expand_as(TRUTH) + EMPTY)
    moves, everywhere = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool), torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    moves[:, :, 8:26, 4:40] = True
    device = torch.device("cpu")
    near = form.distance(rounded(worse), rounded(TRUTH), moves[0], moves[1], device)
    wide = form.distance(rounded(worse), rounded(TRUTH), everywhere, moves[1], device)
    assert near is not None
    assert wide == pytest.approx(near, rel=1e-4)


def test_a_truth_that_stands_still_has_no_form_to_keep() -> None:
    assert distance(TRUTH, TRUTH[:, :1].expand_as(TRUTH)) is None


def test_the_last_quarter_of_frames_is_compared_and_at_least_one() -> None:
    assert form.last_frames(slice(0, 16)) == slice(12, 16)
    assert form.last_frames(slice(8, 16)) == slice(14, 16)
    assert form.last_frames(slice(0, 2)) == slice(1, 2)
