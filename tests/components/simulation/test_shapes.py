"""Moving shapes: the same episode every time, another one for every seed, split and number."""

import pytest
import torch

from components.foundation import config
from components.foundation.errors import InputError
from components.simulation import shapes
from components.simulation.shapes import Episodes, ShapesConfig

SMALL = ShapesConfig(
    kind="shapes",
    episodes=Episodes(train=2, val=1, test=1),
    frames=20,
    resolution=(40, 64),
    objects=(2, 4),
    seed=3,
    fps=10,
)


def test_an_episode_is_the_same_whatever_ran_before() -> None:
    first = shapes.simulate(SMALL, "train", 1).clip
    shapes.simulate(SMALL, "train", 0)
    assert torch.equal(shapes.simulate(SMALL, "train", 1).clip, first)


def test_seeds_splits_and_numbers_give_other_episodes() -> None:
    other = SMALL.model_copy(update={"seed": 4})
    episodes = [
        shapes.simulate(SMALL, "train", 0).clip,
        shapes.simulate(SMALL, "train", 1).clip,
        shapes.simulate(SMALL, "val", 0).clip,
        shapes.simulate(other, "train", 0).clip,
    ]
    for index, episode in enumerate(episodes):
        assert all(not torch.equal(episode, later) for later in episodes[index + 1 :])


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (33, 80), (128, 40)])
def test_frames_have_the_size_asked_for_and_use_the_range(size: tuple[int, int]) -> None:
    clip = shapes.simulate(SMALL.model_copy(update={"resolution": size}), "train", 0).clip
    assert clip.shape == (20, 3, *size)
    assert clip.dtype == torch.uint8
    assert clip.double().std() > 15


def test_something_moves_in_every_frame_and_the_ground_does_not() -> None:
    clip = shapes.simulate(SMALL, "test", 0).clip.int()
    changed = (clip[1:] != clip[:-1]).any(1)
    assert changed.any((1, 2)).all()
    assert changed.double().mean() < 0.5


def test_shapes_stay_inside() -> None:
    one = SMALL.model_copy(update={"objects": (1, 1), "frames": 200})
    for episode in range(5):
        clip = shapes.simulate(one, "train", episode).clip.int()
        ground = clip.median(0).values  # one small shape hides no place for half of the time
        hidden = ((clip - ground).abs() > 40).any(1)
        assert hidden.any((1, 2)).double().mean() > 0.95


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objects": [4, 2]}, "the minimum must not exceed the maximum"),
        ({"objects": [0, 2]}, "objects.0 is 0"),
        ({"resolution": [8, 64]}, "resolution.0 is 8"),
        ({"frames": 1}, "frames is 1"),
        ({"fps": 0}, "fps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"episodes": {"train": -1, "val": 0, "test": 0}}, "episodes.train is -1"),
        ({"episodes": {"train": 1, "val": 0}}, "missing key episodes.test"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_a_wrong_choice_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: datasets\.shapes") as caught:
        config.parse(ShapesConfig, config.plain(SMALL) | change, where="params.yaml: datasets.shapes")
    assert words in str(caught.value)
