"""Simulated stand-in for BAIR robot pushing, and the only module that uses pybullet: an arm pushes objects in a tray.

A simulated Kuka iiwa pushes some of pybullet's thousand random objects (Ebert et al. 2017 pushed real ones) under one
fixed camera. Every episode has its own physics world, so it does not depend on the process or on earlier episodes.
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

from components.foundation.errors import InputError
from components.foundation.randomness import derive
from components.simulation.shapes import Episode, Simulation

# lengths in metres, angles in radians, times in seconds; x points from the arm's base to the camera, z up
TRAY: Final = (0.6, 0.0)  # centre (x, y)
REACH: Final = 0.14  # of the gripper from the centre of the tray, along x and y
PLACES: Final = 9  # start positions of the objects and the gripper, on a three by three grid
APART: Final = 0.11  # spacing of the grid
PUSH_HEIGHT: Final = 0.262  # of the wrist, with the fingertips half a centimetre above the tray
SPEED: Final = 0.25  # of the gripper, per second
TURN: Final = 1.2  # of the gripper, per second
AIMED: Final = 0.7  # share of the gripper's goals that lie behind an object
STEPS_A_SECOND: Final = 80
STEPS_A_MOVE: Final = 4  # steps of physics between two commands to the arm
SETTLE: Final = 0.6  # time for the objects to come to rest
OBJECTS: Final = 1000  # number of random object models in pybullet_data
JOINTS: Final = 7
WRIST: Final = 7  # the link that carries the gripper
FINGERS: Final = (8, 10, 11, 13)  # the joints that move them
HIDDEN: Final = (-1, 0, 1, 2, 3)  # links that the camera never sees
READY: Final = (0.0, 0.6, 0.0, -1.6, 0.0, 0.9, 0.0)  # joint angles with the gripper above the tray
FINE: Final = 2  # supersampling factor: pictures are rendered this many times larger, then averaged
EYE: Final = ((1.02, 0.0, 0.78), (0.585, 0.0, 0.03))  # the camera's position and its target
FIELD_OF_VIEW: Final = 39.0  # degrees, vertical
CLEAR: Final = (1.0, 1.0, 1.0, 0.0)  # RGBA, transparent
COMMANDS: Final = ("forward", "left", "turn")  # names of the three numbers of a command


class KukaConfig(Simulation):
    """Settings of the robot arm and its `objects` objects; one second of video is one second of physics."""

    kind: Literal["kuka"]

    @field_validator("objects")
    @classmethod
    def _room_in_the_tray(cls, objects: tuple[int, int]) -> tuple[int, int]:
        if objects[1] >= PLACES:
            raise ValueError(f"the tray has room for at most {PLACES - 1} objects; lower the second number")
        return objects


def simulate(config: KukaConfig, split: str, episode: int) -> Episode:
    """Return an RGB episode that depends only on the config, the split and the episode's number.

    Its commands are the mean velocity of the gripper's target from each frame to the next: along x and y as a share of
    SPEED, and about the vertical axis as a share of TURN. Raises InputError if pybullet is not installed.
    """
    rng = np.random.default_rng(derive(config.seed, "kuka", split, episode))
    steps = max(1, round(STEPS_A_SECOND / config.fps))
    step = 1 / (config.fps * steps)
    pictures, targets = [], []
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
        target = (start, turn)
        for tick in range(config.frames * steps):
            if tick % steps == 0:
                pictures.append(camera.shoot(bullet))
                targets.append([*target[0], target[1]])
            if tick % STEPS_A_MOVE == 0:
                target = next(hand)
                _command(bullet, arm, _angles(bullet, arm, *target))
            bullet.stepSimulation()
        targets.append([*target[0], target[1]])
    commands = np.diff(np.array(targets), axis=0) * config.fps / (SPEED, SPEED, TURN)
    return Episode(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), commands)


class _Bullet:
    """pybullet's functions, bound to one physics client."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._client = module.connect(module.DIRECT)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return partial(value, physicsClientId=self._client) if callable(value) else value


@contextmanager
def _simulation(step: float) -> Iterator[_Bullet]:
    """Provide an empty world with gravity and a time step of `step` seconds; disconnect it on exit."""
    module, folder = _pybullet()
    bullet = _Bullet(module)
    try:
        bullet.setAdditionalSearchPath(folder)
        bullet.setGravity(0, 0, -9.8)
        # few solver iterations, for speed: objects penetrate no deeper than with three times as many
        bullet.setPhysicsEngineParameter(
            fixedTimeStep=step, numSolverIterations=15, solverResidualThreshold=1e-3, deterministicOverlappingPairs=1
        )
        yield bullet
    finally:
        bullet.disconnect()


@cache
def _pybullet() -> tuple[Any, str]:
    """Return pybullet and the folder of its models. Suppresses the line that pybullet prints on import."""
    try:
        with _silence():
            import pybullet
            import pybullet_data
    except ImportError:
        raise InputError(
            "pybullet, which simulates the robot arm, is not installed (it has wheels for Linux with Python 3.10 and "
            "3.11); install it, or choose a simulation of `kind: pusher` or `shapes`, which need only numpy"
        ) from None
    return pybullet, pybullet_data.getDataPath()


@contextmanager
def _silence() -> Iterator[None]:
    """Redirect standard error to the null device, for C code too."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _furniture(bullet: _Bullet) -> list[int]:
    """Add a table top without collisions and the tray on it; return their body ids."""
    board = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=(1, 1, 0.01), rgbaColor=(0.62, 0.47, 0.33, 1))
    table = bullet.createMultiBody(0, -1, board, (*TRAY, -0.03))
    return [table, bullet.loadURDF("tray/traybox.urdf", (*TRAY, 0))]


def _arm(bullet: _Bullet, start: tuple[float, float], turn: float) -> int:
    """Add the arm with its gripper closed at `start` and return its body id. Only its fingers collide with objects."""
    (arm,) = bullet.loadSDF("kuka_iiwa/kuka_with_gripper2.sdf")
    for link in HIDDEN:
        bullet.changeVisualShape(arm, link, rgbaColor=CLEAR)
    for link in range(-1, WRIST + 1):
        bullet.setCollisionFilterGroupMask(arm, link, 0, 0)
    bullet.changeVisualShape(arm, WRIST, rgbaColor=(0.85, 0.85, 0.85, 1))
    for link in range(WRIST + 1, bullet.getNumJoints(arm)):
        bullet.changeVisualShape(arm, link, rgbaColor=(0.12, 0.12, 0.14, 1))
    angles: tuple[float, ...] = READY
    for _ in range(10):  # inverse kinematics starts from the current pose, so repetition refines it
        for joint, angle in enumerate(angles):
            bullet.resetJointState(arm, joint, angle)
        angles = _angles(bullet, arm, start, turn)
    for joint in (WRIST, *FINGERS):
        bullet.setJointMotorControl2(arm, joint, bullet.POSITION_CONTROL, targetPosition=0, force=50)
    _command(bullet, arm, angles)
    return arm


def _angles(bullet: _Bullet, arm: int, place: tuple[float, float], turn: float) -> tuple[float, ...]:
    """Return the joint angles that bring the gripper to `place` (x, y) in the tray, pointing down."""
    down = bullet.getQuaternionFromEuler((0, -math.pi, turn))
    target = (*place, PUSH_HEIGHT)
    found = bullet.calculateInverseKinematics(arm, WRIST, target, down, maxNumIterations=20, residualThreshold=1e-4)
    return found[:JOINTS]


def _command(bullet: _Bullet, arm: int, angles: tuple[float, ...]) -> None:
    """Set the target angles of the arm's motors, with gains low enough not to crush objects."""
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
    """Return a random position (x, y) near one of the nine grid positions in the tray."""
    shift = rng.uniform(-0.02, 0.02, 2)
    return TRAY[0] + APART * (place % 3 - 1) + shift[0], TRAY[1] + APART * (place // 3 - 1) + shift[1]


def _drop(bullet: _Bullet, rng: np.random.Generator, place: int) -> int:
    """Drop a random object from a few centimetres and return its body id."""
    name = f"{rng.integers(OBJECTS):03d}"
    position = (*_spot(rng, place), rng.uniform(0.07, 0.09))
    pose = bullet.getQuaternionFromEuler((0, 0, rng.uniform(-math.pi, math.pi)))
    # maximal coordinates: the solver is faster for a free body than for a multibody of one link
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
    """Yield the gripper's target, one for each interval of `seconds`: position (x, y) in metres, rotation in radians.

    The gripper moves straight from one random goal to the next; most goals lie behind an object.
    """
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
    """Return the gripper's next goal (x, y), at least five centimetres away."""
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
    """A fixed camera that renders the static bodies once and then composites the moving ones by depth."""

    size: tuple[int, int]  # height, width
    view: tuple[float, ...]
    projection: tuple[float, ...]
    ground: UInt8[ndarray, "h w 3"]
    depth: Float[ndarray, "h w"]

    @classmethod
    def over(cls, bullet: _Bullet, still: list[int], size: tuple[int, int]) -> "_Camera":
        """Render a world that has only the bodies `still`, hide them, and return the camera."""
        height, width = size
        view = bullet.computeViewMatrix(*EYE, (0, 0, 1))
        projection = bullet.computeProjectionMatrixFOV(FIELD_OF_VIEW, width / height, 0.1, 3)
        ground, depth = _draw(bullet, size, view, projection)
        for body in still:
            bullet.changeVisualShape(body, -1, rgbaColor=CLEAR)
        return cls(size, view, projection, ground, depth)

    def shoot(self, bullet: _Bullet) -> UInt8[ndarray, "h w 3"]:
        """Return the RGB picture of the world's current state."""
        picture, depth = _draw(bullet, self.size, self.view, self.projection)
        whole = np.where((depth < self.depth)[..., None], picture, self.ground)
        parts = np.stack([whole[row::FINE, column::FINE] for row in range(FINE) for column in range(FINE)])
        return (parts.sum(0, dtype=np.uint16) // len(parts)).astype(np.uint8)


def _draw(
    bullet: _Bullet, size: tuple[int, int], view: tuple[float, ...], projection: tuple[float, ...]
) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "h w"]]:
    """Render the world at FINE times `size`; return the RGB picture and the depth buffer."""
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
