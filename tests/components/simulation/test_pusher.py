"""The pusher's world: the same episode every time, physics that can be computed by hand, choices that are refused."""

import numpy as np
import pytest
import torch

from components.foundation import config
from components.foundation.errors import InputError
from components.simulation import pusher
from components.simulation.pusher import DISC, FRICTION, PUSHER, RESPONSE, SPEED, PusherConfig, World
from components.simulation.shapes import Episodes

SMALL = PusherConfig(
    kind="pusher",
    episodes=Episodes(train=2, val=1, test=1),
    frames=20,
    resolution=(48, 64),
    objects=(2, 4),
    seed=3,
    fps=10,
)


def world(*places: tuple[float, float]) -> World:
    """A table of 3 x 3 short sides with the pusher and the discs at these places, all at rest."""
    made = World(np.random.default_rng(0), np.array([3.0, 3.0]), len(places) - 1)
    made.places = np.array(places)
    made.velocities = np.zeros_like(made.places)
    return made


def test_an_episode_is_the_same_whatever_ran_before() -> None:
    first = pusher.simulate(SMALL, "train", 1)
    pusher.simulate(SMALL, "train", 0)
    again = pusher.simulate(SMALL, "train", 1)
    assert torch.equal(again.clip, first.clip)
    assert np.array_equal(again.commands, first.commands)


def test_seeds_splits_and_numbers_give_other_episodes() -> None:
    other = SMALL.model_copy(update={"seed": 4})
    episodes = [
        pusher.simulate(choices, split, number)
        for choices, split, number in ((SMALL, "train", 0), (SMALL, "train", 1), (SMALL, "val", 0), (other, "train", 0))
    ]
    for index, episode in enumerate(episodes):
        assert all(not torch.equal(episode.clip, later.clip) for later in episodes[index + 1 :])
        assert all(not np.array_equal(episode.commands, later.commands) for later in episodes[index + 1 :])


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (33, 80), (128, 40)])
def test_frames_have_the_size_asked_for_and_commands_are_shares_of_the_speed(size: tuple[int, int]) -> None:
    for number in range(5):
        episode = pusher.simulate(SMALL.model_copy(update={"resolution": size}), "train", number)
        assert episode.clip.shape == (20, 3, *size)
        assert episode.clip.dtype == torch.uint8
        assert episode.clip.double().std() > 15
        assert (episode.commands.shape, episode.commands.dtype) == ((20, len(pusher.COMMANDS)), np.float32)
        assert np.linalg.norm(episode.commands, axis=1).max() <= 1 + 1e-6


def test_patches_give_the_pixels_that_whole_pictures_give() -> None:
    """Beyond the edge of a body its cover is 0, so painting the patch around the body alone changes nothing."""
    centres = np.random.default_rng(0).uniform(0.1, 0.9, (6, 3, 2))
    drawn = pusher._draw((32, 40), centres).numpy()
    rows, columns = ((np.arange(count, dtype=np.float32) + 0.5) / 32 for count in (32, 40))
    down = np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
    table = np.array(pusher.TABLE[0], np.float32) * (1 - down) + np.array(pusher.TABLE[1], np.float32) * down
    frames = np.broadcast_to(table, (6, 32, 40, 3)).copy()
    for body, radius, colour in [(1, DISC, pusher.CLAY), (2, DISC, pusher.CLAY), (0, PUSHER, pusher.STEEL)]:
        x, y = centres[:, body].astype(np.float32).T[:, :, None, None]
        cover = ((radius - np.hypot(columns[None, None] - x, rows[None, :, None] - y)) / (2 * pusher.EDGE) + 0.5).clip(
            0, 1
        )
        frames += cover[..., None] * (np.array(colour, np.float32) - frames)
    assert np.array_equal(drawn, (frames + 0.5).astype(np.uint8).transpose(0, 3, 1, 2))


def test_the_velocity_approaches_the_command_by_an_equal_share_each_frame() -> None:
    free, command = world((0.3, 0.3), (2.5, 0.3)), np.array([0.6, 0.8])
    for frame in range(1, 20):
        before = free.places[0].copy()
        free.step(command)
        expected = SPEED * command * (1 - (1 - RESPONSE) ** frame)
        assert free.velocities[0] == pytest.approx(expected)
        assert free.places[0] - before == pytest.approx(expected)


def test_a_disc_that_is_pushed_moves_and_later_stops() -> None:
    pushed = world((0.5, 1.0), (0.9, 1.0))
    for _ in range(15):
        pushed.step(np.array([1.0, 0.0]))
    assert pushed.places[1, 0] > 0.95
    assert pushed.velocities[1, 0] > 0
    speed = pushed.velocities[1, 0]
    pushed.step(np.array([-1.0, 0.0]))
    assert pushed.velocities[1, 0] < speed
    for _ in range(30):
        last = pushed.velocities[1].copy()
        pushed.step(np.array([-1.0, 0.0]))
    assert pushed.velocities[1] == pytest.approx(FRICTION * last)
    assert np.linalg.norm(pushed.velocities[1]) < 1e-3


def test_bodies_that_are_not_jammed_at_the_rim_overlap_by_less_than_a_pixel() -> None:
    """The pusher does not give way, so it may slide over a disc that the rim holds; nowhere else do bodies overlap."""
    pixel, seen = 1 / 64, 0
    for number in range(40):
        rng = np.random.default_rng(number)
        table = World(rng, np.array([1.0, 1.0]), int(rng.integers(1, 5)))
        for _ in range(41):
            table.step(table.command())
            jammed = (np.abs(table.places[1:] - 0.5) > 0.5 - DISC - pixel).any(1)
            gaps = np.linalg.norm(table.places[:, None] - table.places[None], axis=2)
            near = gaps[1:, 1:] < 2 * DISC + pixel
            jammed = (near & jammed).any(1)  # or held by a disc that the rim holds
            free = np.concatenate([[True], ~jammed])
            reach = table.radii[:, None] + table.radii[None]
            overlap = (reach - gaps)[free][:, free]
            assert overlap[~np.eye(free.sum(), dtype=bool)].max(initial=0) < pixel
            seen += int(free.sum() > 1)
    assert seen > 500


def test_bodies_stay_on_the_table() -> None:
    table = World(np.random.default_rng(1), np.array([1.5, 1.0]), 4)
    for _ in range(200):
        table.step(table.command())
        assert (table.places >= table.radii[:, None] - 1e-9).all()
        assert (table.places <= table.size - table.radii[:, None] + 1e-9).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"objects": [2, 5]}, "the table has room for 4 discs; lower the second number"),
        ({"objects": [4, 2]}, "the minimum must not exceed the maximum"),
        ({"objects": [0, 2]}, "objects.0 is 0"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_a_wrong_choice_is_named(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: simulations\.table") as caught:
        config.parse(PusherConfig, config.plain(SMALL) | change, where="params.yaml: simulations.table")
    assert told in str(caught.value)
