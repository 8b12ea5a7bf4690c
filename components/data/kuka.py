"""A robot arm that pushes objects about in a tray: the stand-in for BAIR robot pushing, and the only door to pybullet.

A simulated Kuka iiwa pushes some of pybullet's thousand random objects (Ebert et al. 2017 pushed real ones) under one
fixed camera. Every episode has a world of its own, so it is the same in any process and after any other episode.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from pydantic import field_validator
from torch import Tensor

from components.data.shapes import Simulation
from components.errors import InputError
from components.randomness import derive

# lengths in metres, angles in radians, times in seconds; x points from the arm's foot to the camera, z up
TRAY: Final = (0.6, 0.0)
REACH: Final = 0.14  # of the hand from the middle of the tray, along each side
PLACES: Final = 9  # three by three, where objects are dropped and the hand starts
APART: Final = 0.11  # from one place to the next
PUSH_HEIGHT: Final = 0.262  # of the wrist, with the fingertips half a centimetre above the tray
SPEED: Final = 0.25  # a second
TURN: Final = 1.2  # a second
AIMED: Final = 0.7  # share of the hand's goals that lie behind an object
STEPS_A_SECOND: Final = 80
STEPS_A_MOVE: Final = 4  # steps of physics between two commands to the arm
SETTLE: Final = 0.6  # for the objects to come to rest
OBJECTS: Final = 1000  # models that pybullet brings
JOINTS: Final = 7
WRIST: Final = 7  # the link that carries the gripper
FINGERS: Final = (8, 10, 11, 13)  # the joints that move them
HIDDEN: Final = (-1, 0, 1, 2, 3)  # links that the camera never sees
READY: Final = (0.0, 0.6, 0.0, -1.6, 0.0, 0.9, 0.0)  # joint angles with the hand above the tray
FINE: Final = 2  # pictures are drawn this many times larger, then averaged
EYE: Final = ((1.02, 0.0, 0.78), (0.585, 0.0, 0.03))  # where the camera is, and what it looks at
FIELD_OF_VIEW: Final = 39.0  # degrees, from top to bottom
CLEAR: Final = (1.0, 1.0, 1.0, 0.0)


class KukaConfig(Simulation):
    """A robot arm pushing `objects` objects in a tray; a second of video is a second of physics."""

    kind: Literal["kuka"]

    @field_validator("objects")
    @classmethod
    def _room_in_the_tray(cls, objects: tuple[int, int]) -> tuple[int, int]:
        if objects[1] >= PLACES:
            raise ValueError(f"the tray has room for {PLACES - 1} objects at most")
        return objects


def simulate(config: KukaConfig, split: str, episode: int) -> UInt8[Tensor, "f c h w"]:
    """An RGB episode, which belongs to the config's seed, the split and its number, whatever ran before.

    Raises InputError where pybullet is not installed.
    """
    rng = np.random.default_rng(derive(config.seed, "kuka", split, episode))
    steps = max(1, round(STEPS_A_SECOND / config.fps))
    step = 1 / (config.fps * steps)
    pictures = []
    with _simulation(step) as bullet:
        camera = _Camera.over(bullet, _furniture(bullet), config.resolution)
        count = rng.integers(config.objects[0], config.objects[1] + 1)
        places = rng.permutation(PLACES).tolist()[: count + 1]
        start = _spot(rng, places[0])
        turn = rng.uniform(-math.pi / 2, math.pi / 2)
        arm = _arm(bullet, start, turn)
        objects = [_drop(bullet, rng, place) for place in places[1:]]
        hand = _journey(bullet, rng, objects, start, turn, STEPS_A_MOVE * step)
        for _ in range(round(SETTLE / step)):
            bullet.stepSimulation()
        for tick in range((config.frames - 1) * steps + 1):
            if tick % steps == 0:
                pictures.append(camera.shoot(bullet))
            if tick % STEPS_A_MOVE == 0:
                _command(bullet, arm, _angles(bullet, arm, *next(hand)))
            bullet.stepSimulation()
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


class _Bullet:
    """pybullet's functions, bound to one simulation."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._client = module.connect(module.DIRECT)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return partial(value, physicsClientId=self._client) if callable(value) else value


@contextmanager
def _simulation(step: float) -> Iterator[_Bullet]:
    """An empty world with gravity, `step` seconds at a time, as long as the context lasts."""
    module, folder = _pybullet()
    bullet = _Bullet(module)
    try:
        bullet.setAdditionalSearchPath(folder)
        bullet.setGravity(0, 0, -9.8)
        # coarse, for speed: objects sink into one another no deeper than with three times the effort
        bullet.setPhysicsEngineParameter(
            fixedTimeStep=step, numSolverIterations=15, solverResidualThreshold=1e-3, deterministicOverlappingPairs=1
        )
        yield bullet
    finally:
        bullet.disconnect()


@cache
def _pybullet() -> tuple[Any, str]:
    """pybullet and the folder of its models, imported without the line that it prints."""
    try:
        with _silence():
            import pybullet
            import pybullet_data
    except ImportError:
        raise InputError(
            "pybullet, which simulates the robot arm, is not installed (it is made for Linux on Python 3.10 and 3.11); "
            "choose a dataset of `kind: shapes`, which needs numpy alone"
        ) from None
    return pybullet, pybullet_data.getDataPath()


@contextmanager
def _silence() -> Iterator[None]:
    """What C code writes to standard error goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _furniture(bullet: _Bullet) -> list[int]:
    """A table top, which is only seen, and the tray on it."""
    board = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=(1, 1, 0.01), rgbaColor=(0.62, 0.47, 0.33, 1))
    table = bullet.createMultiBody(0, -1, board, (*TRAY, -0.03))
    return [table, bullet.loadURDF("tray/traybox.urdf", (*TRAY, 0))]


def _arm(bullet: _Bullet, start: tuple[float, float], turn: float) -> int:
    """The arm with its hand closed at `start`; only its fingers touch things."""
    (arm,) = bullet.loadSDF("kuka_iiwa/kuka_with_gripper2.sdf")
    for link in HIDDEN:
        bullet.changeVisualShape(arm, link, rgbaColor=CLEAR)
    for link in range(-1, WRIST + 1):
        bullet.setCollisionFilterGroupMask(arm, link, 0, 0)
    bullet.changeVisualShape(arm, WRIST, rgbaColor=(0.85, 0.85, 0.85, 1))
    for link in range(WRIST + 1, bullet.getNumJoints(arm)):
        bullet.changeVisualShape(arm, link, rgbaColor=(0.12, 0.12, 0.14, 1))
    angles: tuple[float, ...] = READY
    for _ in range(10):  # inverse kinematics starts from the pose that it finds
        for joint, angle in enumerate(angles):
            bullet.resetJointState(arm, joint, angle)
        angles = _angles(bullet, arm, start, turn)
    for joint in (WRIST, *FINGERS):
        bullet.setJointMotorControl2(arm, joint, bullet.POSITION_CONTROL, targetPosition=0, force=50)
    _command(bullet, arm, angles)
    return arm


def _angles(bullet: _Bullet, arm: int, place: tuple[float, float], turn: float) -> tuple[float, ...]:
    """Joint angles that bring the hand to a place in the tray, pointing down."""
    down = bullet.getQuaternionFromEuler((0, -math.pi, turn))
    target = (*place, PUSH_HEIGHT)
    found = bullet.calculateInverseKinematics(arm, WRIST, target, down, maxNumIterations=20, residualThreshold=1e-4)
    return found[:JOINTS]


def _command(bullet: _Bullet, arm: int, angles: tuple[float, ...]) -> None:
    """Let the arm's motors strive for these angles, softly enough to crush nothing."""
    bullet.setJointMotorControlArray(
        arm,
        range(JOINTS),
        bullet.POSITION_CONTROL,
        targetPositions=angles,
        forces=[200] * JOINTS,
        positionGains=[0.3] * JOINTS,
        velocityGains=[1] * JOINTS,
    )


def _spot(rng: np.random.Generator, place: int) -> tuple[float, float]:
    """Somewhere near one of nine places in the tray."""
    shift = rng.uniform(-0.02, 0.02, 2)
    return TRAY[0] + APART * (place % 3 - 1) + shift[0], TRAY[1] + APART * (place // 3 - 1) + shift[1]


def _drop(bullet: _Bullet, rng: np.random.Generator, place: int) -> int:
    """A random object that falls a few centimetres."""
    name = f"{rng.integers(OBJECTS):03d}"
    position = (*_spot(rng, place), rng.uniform(0.07, 0.09))
    pose = bullet.getQuaternionFromEuler((0, 0, rng.uniform(-math.pi, math.pi)))
    # maximal coordinates: a free body costs the solver less than a robot of one link
    body = bullet.loadURDF(f"random_urdfs/{name}/{name}.urdf", position, pose, useMaximalCoordinates=True)
    bullet.changeDynamics(
        body,
        -1,
        lateralFriction=0.8,
        rollingFriction=0.002,
        spinningFriction=0.002,
        linearDamping=0.2,
        angularDamping=0.6,
    )
    return body


def _journey(
    bullet: _Bullet,
    rng: np.random.Generator,
    objects: list[int],
    start: tuple[float, float],
    turn: float,
    seconds: float,
) -> Iterator[tuple[tuple[float, float], float]]:
    """Where the hand is told to be, and its turn, every `seconds`: straight to random goals, most behind an object."""
    here, heading = np.array(start), turn
    goal = here
    while True:
        if np.linalg.norm(goal - here) < 1e-6:
            goal = _goal(bullet, rng, objects, here)
            heading = float(np.clip(turn + rng.uniform(-0.8, 0.8), -math.pi / 2, math.pi / 2))
        way = goal - here
        here = here + way * min(1.0, SPEED * seconds / float(np.linalg.norm(way)))
        turn += float(np.clip(heading - turn, -TURN * seconds, TURN * seconds))
        yield (here[0], here[1]), turn


def _goal(
    bullet: _Bullet, rng: np.random.Generator, objects: list[int], here: Float[ndarray, "2"]
) -> Float[ndarray, "2"]:
    """The next place to push to, at least five centimetres away."""
    middle = np.array(TRAY)
    if rng.random() < AIMED:
        seen = np.array(bullet.getBasePositionAndOrientation(objects[rng.integers(len(objects))])[0][:2])
        way = seen - here
        beyond = seen + way / (np.linalg.norm(way) + 1e-6) * rng.uniform(0.02, 0.1)
        goal = np.clip(beyond, middle - REACH, middle + REACH)
        if np.linalg.norm(goal - here) > 0.05:
            return goal
    while True:
        goal = middle + rng.uniform(-REACH, REACH, 2)
        if np.linalg.norm(goal - here) > 0.05:
            return goal


@dataclass(frozen=True, slots=True)
class _Camera:
    """A fixed camera that draws what stands still once, and afterwards only what moves in front of it."""

    size: tuple[int, int]  # height, width
    view: tuple[float, ...]
    projection: tuple[float, ...]
    ground: UInt8[ndarray, "h w 3"]
    depth: Float[ndarray, "h w"]

    @classmethod
    def over(cls, bullet: _Bullet, still: list[int], size: tuple[int, int]) -> "_Camera":
        """A camera over a world that holds nothing but these bodies, which it then hides."""
        height, width = size
        view = bullet.computeViewMatrix(*EYE, (0, 0, 1))
        projection = bullet.computeProjectionMatrixFOV(FIELD_OF_VIEW, width / height, 0.1, 3)
        ground, depth = _draw(bullet, size, view, projection)
        for body in still:
            bullet.changeVisualShape(body, -1, rgbaColor=CLEAR)
        return cls(size, view, projection, ground, depth)

    def shoot(self, bullet: _Bullet) -> UInt8[ndarray, "h w 3"]:
        """The picture of the world as it is."""
        picture, depth = _draw(bullet, self.size, self.view, self.projection)
        whole = np.where((depth < self.depth)[..., None], picture, self.ground)
        parts = np.stack([whole[row::FINE, column::FINE] for row in range(FINE) for column in range(FINE)])
        return (parts.sum(0, dtype=np.uint16) // len(parts)).astype(np.uint8)


def _draw(
    bullet: _Bullet, size: tuple[int, int], view: tuple[float, ...], projection: tuple[float, ...]
) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "h w"]]:
    """What is visible, and how far away it is, at FINE times the size."""
    height, width = size[0] * FINE, size[1] * FINE
    picture, depth = bullet.getCameraImage(
        width,
        height,
        view,
        projection,
        shadow=0,
        flags=bullet.ER_NO_SEGMENTATION_MASK,
        renderer=bullet.ER_TINY_RENDERER,
        lightDirection=(0.6, -0.5, 1.5),
        lightAmbientCoeff=0.55,
        lightDiffuseCoeff=0.5,
        lightSpecularCoeff=0.05,
    )[2:4]
    return np.reshape(picture, (height, width, 4))[..., :3].astype(np.uint8), np.reshape(depth, (height, width))
