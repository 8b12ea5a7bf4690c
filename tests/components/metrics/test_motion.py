import pytest
import torch

from components.foundation.errors import InputError
from components.metrics import motion


def test_motion_is_zero_for_frozen_clips_and_counts_grey_levels_for_others() -> None:
    frames = torch.tensor([[7, 7, 7], [0, 255, 0], [10, 12, 15]], dtype=torch.uint8)
    clips = frames[:, :, None, None, None].expand(3, 3, 3, 4, 4)
    assert motion.motion(clips).tolist() == [0, 255, 2.5]


def test_the_motion_of_a_single_frame_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least two frames"):
        motion.motion(torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8))


def test_half_the_motion_is_half_and_what_has_stopped_is_counted() -> None:
    told = motion.ratio_to_truth(torch.tensor([4.0, 1.0, 0.0, 9.0]), torch.tensor([4.0, 8.0, 8.0, 8.0]))
    assert told == {"motion_ratio": 0.5, "frozen": 0.25}


def test_a_truth_that_stands_still_tells_nothing_of_motion_and_a_clip_of_it_is_not_counted_as_frozen() -> None:
    assert motion.ratio_to_truth(torch.tensor([1.0]), torch.tensor([0.0])) == {}
    assert motion.ratio_to_truth(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))["frozen"] == 0
