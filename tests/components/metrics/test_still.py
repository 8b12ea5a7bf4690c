import pytest
import torch

from components.metrics import motion


def noise(*shape: int, levels: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, levels + 1, shape, generator=torch.Generator().manual_seed(seed)).byte()


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """The last given frame and eight more of two clips: a bright column moves over a grey wall, one pixel a frame."""
    clips = torch.full((2, 9, 3, 8, 16), 90, dtype=torch.uint8)
    for frame in range(9):
        clips[:, frame, :, :, frame] = 200
    return clips[:, 0], clips[:, 1:]


WHOLE = slice(0, 8)


def test_pixels_move_that_change_by_more_than_noise_does_at_any_time_since_the_last_given_frame() -> None:
    last, clips = scene()
    moves = motion.moving(last, clips)
    assert moves[..., :9].all()
    assert not moves[..., 9:].any()
    noisy = clips + noise(*clips.shape, levels=motion.TOLERANCE)
    assert torch.equal(motion.moving(last, noisy), moves)


def test_holding_the_last_frame_changes_nothing_and_flicker_is_counted_in_grey_levels() -> None:
    last, clips = scene()
    stands = ~motion.moving(last, clips)
    held = last[:, None].expand_as(clips).contiguous()
    assert motion.still_change(last, held, stands, WHOLE) == 0
    assert motion.still_change(last, clips, stands, WHOLE) == 0
    flicker = held.clone()
    flicker[:, ::2] += 6
    assert motion.still_change(last, flicker, stands, WHOLE) == 6


def test_what_moves_in_the_truth_may_change_and_a_jump_away_from_the_context_is_counted_once() -> None:
    last, clips = scene()
    stands = ~motion.moving(last, clips)
    other = clips.clone()
    other[..., :9] = noise(2, 8, 3, 8, 9, levels=255)
    assert motion.still_change(last, other, stands, WHOLE) == 0
    assert motion.still_change(last, clips + 16, stands, WHOLE) == pytest.approx(16 / 8)
    assert motion.still_change(last, clips + 16, stands, slice(4, 8)) == 0


def test_a_window_begins_with_the_change_from_the_frame_before_it() -> None:
    last, clips = scene()
    stands = ~motion.moving(last, clips)
    later = clips.clone()
    later[:, 4:] += 12
    assert motion.still_change(last, later, stands, slice(0, 4)) == 0
    assert motion.still_change(last, later, stands, slice(4, 8)) == pytest.approx(12 / 4)


def test_several_predictions_of_a_context_are_held_against_its_own_still_pixels() -> None:
    last, clips = scene()
    stands = ~motion.moving(last, clips)
    stands[1] = False
    several = clips.repeat_interleave(2, dim=0)
    several[2:] += 50  # of the second context, where nothing is still
    assert motion.still_change(last, several, stands, WHOLE) == 0


def test_without_a_still_pixel_there_is_nothing_to_tell() -> None:
    last, clips = scene()
    assert motion.still_change(last, clips, torch.zeros(2, 8, 16, dtype=torch.bool), WHOLE) is None
