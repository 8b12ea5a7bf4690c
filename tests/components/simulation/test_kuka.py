"""The robot arm: the same episode in any process and order, an arm that moves and objects that it moves."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components.foundation import config
from components.foundation.errors import InputError
from components.simulation import kuka
from components.simulation.kuka import KukaConfig
from components.simulation.shapes import Episodes

ROOT = Path(__file__).resolve().parents[3]
SMALL = KukaConfig(
    kind="kuka",
    episodes=Episodes(train=2, val=1, test=1),
    frames=5,
    resolution=(32, 32),
    objects=(5, 8),
    seed=3,
    fps=10,
)
needs_pybullet = pytest.mark.skipif(
    not (sys.platform == "linux" and sys.version_info < (3, 12)), reason="pybullet is made for Linux on Python 3.11"
)


def digest(clip: Tensor) -> str:
    return hashlib.sha256(clip.numpy().tobytes()).hexdigest()


@needs_pybullet
def test_an_episode_is_the_same_whatever_ran_before() -> None:
    first = kuka.simulate(SMALL, "train", 1).clip
    kuka.simulate(SMALL, "train", 0)
    kuka.simulate(SMALL, "val", 7)
    assert torch.equal(kuka.simulate(SMALL, "train", 1).clip, first)


@needs_pybullet
def test_another_process_makes_the_same_episode_and_prints_nothing_of_its_own() -> None:
    code = (
        "import hashlib, sys; from components.foundation import config; from components.simulation import kuka; "
        f"small = config.parse(kuka.KukaConfig, {config.plain(SMALL)!r}, where='here'); "
        "print(hashlib.sha256(kuka.simulate(small, 'train', 1).clip.numpy().tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(kuka.simulate(SMALL, "train", 1).clip)
    assert done.stderr == ""


@needs_pybullet
def test_seeds_splits_and_numbers_give_other_episodes() -> None:
    short = SMALL.model_copy(update={"frames": 2})
    other = short.model_copy(update={"seed": 4})
    wanted = [(short, "train", 0), (short, "train", 1), (short, "val", 0), (other, "train", 0)]
    assert len({digest(kuka.simulate(*episode).clip) for episode in wanted}) == len(wanted)


@needs_pybullet
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (50, 21)])
def test_frames_have_the_size_asked_for(size: tuple[int, int]) -> None:
    clip = kuka.simulate(SMALL.model_copy(update={"resolution": size, "frames": 2}), "train", 0).clip
    assert clip.shape == (2, 3, *size)
    assert clip.dtype == torch.uint8
    assert clip.double().std() > 25


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Where the objects are at every picture that is taken."""
    bodies: list[int] = []
    seen: list[Tensor] = []
    drop, shoot = kuka._drop, kuka._Camera.shoot

    def drop_and_note(bullet, rng, place):
        bodies.append(drop(bullet, rng, place))
        return bodies[-1]

    def shoot_and_note(camera, bullet):
        seen.append(torch.tensor([bullet.getBasePositionAndOrientation(body)[0] for body in bodies]))
        return shoot(camera, bullet)

    monkeypatch.setattr(kuka, "_drop", drop_and_note)
    monkeypatch.setattr(kuka._Camera, "shoot", shoot_and_note)
    return seen


@needs_pybullet
@pytest.mark.parametrize("episode", range(3))
def test_the_arm_pushes_objects_and_they_stay_in_the_tray(positions: list[Tensor], episode: int) -> None:
    clip = kuka.simulate(SMALL.model_copy(update={"frames": 30}), "train", episode).clip.int()
    places = torch.stack(positions)
    assert 5 <= places.shape[1] <= 8
    assert (places[-1] - places[0]).norm(dim=-1).max() > 0.03
    assert (places[..., :2] - torch.tensor(kuka.TRAY)).abs().max() < 0.3
    assert 0 < places[..., 2].min() < places[..., 2].max() < 0.2
    assert (clip[1:] - clip[:-1]).abs().double().mean((1, 2, 3)).min() > 0.1


@needs_pybullet
def test_what_nothing_touches_stays_as_it_is_bit_for_bit() -> None:
    clip = kuka.simulate(SMALL.model_copy(update={"frames": 30}), "train", 0).clip
    front = clip[:, :, -2:]  # the near rim of the tray
    assert torch.equal(front, front[:1].expand_as(front))


def test_without_pybullet_the_error_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    kuka._pybullet.cache_clear()
    with pytest.raises(InputError, match=r"pybullet.* is not installed .*Linux.*kind: pusher.*shapes"):
        kuka.simulate(SMALL, "train", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objects": [5, 9]}, "the tray has room for at most 8 objects"),
        ({"objects": [8, 5]}, "the minimum must not exceed the maximum"),
        ({"kind": "shapes"}, "kind is 'shapes'"),
        ({"fps": 100}, "fps is 100"),
    ],
)
def test_a_wrong_choice_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: datasets\.kuka") as caught:
        config.parse(KukaConfig, config.plain(SMALL) | change, where="params.yaml: datasets.kuka")
    assert words in str(caught.value)


def test_commands_add_up_to_the_journey_of_the_hand(monkeypatch):
    targets = []
    aim = kuka._angles
    monkeypatch.setattr(
        kuka, "_angles", lambda bullet, arm, *target: targets.append(target) or aim(bullet, arm, *target)
    )
    config = SMALL.model_copy(update={"frames": 12})
    commands = kuka.simulate(config, "train", 0).commands
    assert commands.shape == (12, len(kuka.COMMANDS))
    assert np.abs(commands).max() < 1.01  # shares of the fastest motion
    (x, y), turn = targets[9]  # ten times, inverse kinematics begins at the start
    (first_x, first_y), first_turn = targets[0]
    speed = np.array([kuka.SPEED, kuka.SPEED, kuka.TURN])
    whole = np.array([*targets[-1][0], targets[-1][1]]) - (first_x, first_y, first_turn)
    np.testing.assert_allclose((commands * speed / config.fps).sum(axis=0), whole, atol=1e-6)
    assert (x, y, turn) == (first_x, first_y, first_turn)
