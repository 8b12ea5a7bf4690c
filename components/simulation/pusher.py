"""A simulation that needs only numpy: a pusher shoves discs on a table, filmed by one fixed camera.

The pusher follows velocity commands with inertia; discs slide and slow down by friction. The context mostly determines
the next frames, except for the next command, which only a model with actions gets as input (`Episode.commands`).
"""

from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from pydantic import model_validator
from torch import Tensor

from components.foundation.randomness import derive
from components.simulation.shapes import Episode, Simulation

# unit of length: the short side of the table; unit of time: one frame
PUSHER: Final = 0.1  # radius
DISC: Final = 0.12  # radius
SPEED: Final = 0.046  # of the fastest command, per frame
RESPONSE: Final = 0.35  # share of the gap between command and velocity that closes per frame
FRICTION: Final = 0.80  # share of a disc's velocity that remains one frame later
BOUNCE: Final = 0.4  # share of a disc's velocity that remains after it hits the rim
HOLD: Final = (6, 15)  # minimum and maximum duration of a command
AIMED: Final = 0.75  # share of the commands that point at a disc
SUBSTEPS: Final = 4  # physics steps per frame
EDGE: Final = 0.03  # half of the width over which an edge fades (antialiasing), against flicker in moving edges
TABLE: Final = ((196.0, 178.0, 150.0), (176.0, 156.0, 128.0))  # RGB at the top and at the bottom
STEEL: Final = (58.0, 62.0, 72.0)  # the pusher
CLAY: Final = (190.0, 72.0, 60.0)  # the discs
MOST: Final = 4  # discs that the table has room for
COMMANDS: Final = ("right", "down")  # names of a command's two components


class PusherConfig(Simulation):
    """Settings of the pusher and its `objects` discs."""

    kind: Literal["pusher"]

    @model_validator(mode="after")
    def _room_on_the_table(self) -> "PusherConfig":
        if self.objects[1] > MOST:
            raise ValueError(
                f"objects is {list(self.objects)}, but the table has room for {MOST} discs; lower the second number"
            )
        return self


def simulate(config: PusherConfig, split: str, episode: int) -> Episode:
    """Return an RGB episode that depends only on the config, the split and the episode's number.

    Its commands are velocities to the right and down, as a share of SPEED.
    """
    rng = np.random.default_rng(derive(config.seed, "pusher", split, episode))
    size = np.array(config.resolution[::-1]) / min(config.resolution)  # width, height
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    world = World(rng, size, count)
    places = np.empty((config.frames, count + 1, 2))
    commands = np.empty((config.frames, 2))
    for frame in range(config.frames):
        places[frame] = world.places
        commands[frame] = world.command()
        world.step(commands[frame])
    return Episode(_draw(config.resolution, places), commands.astype(np.float32))


class World:
    """Physics state: positions (x, y) and velocities per frame of the pusher (row 0) and the discs.

    The unit of length is the short side of the table.
    """

    def __init__(self, rng: np.random.Generator, size: Float[ndarray, "2"], discs: int) -> None:
        self.rng, self.size = rng, size
        self.radii = np.array([PUSHER] + [DISC] * discs)
        self.places = self._scattered()
        self.velocities = np.zeros_like(self.places)
        self._left, self._command = 0, np.zeros(2)
        self.velocities[0] = SPEED * self.command()

    def command(self) -> Float[ndarray, "2"]:
        """Return the command of this frame. A command lasts HOLD frames; most commands point at a disc."""
        if self._left == 0:
            self._left = int(self.rng.integers(HOLD[0], HOLD[1] + 1))
            goal = self.rng.uniform(2 * PUSHER, self.size - 2 * PUSHER)
            if self.rng.random() < AIMED:
                goal = self.places[self.rng.integers(1, len(self.places))] + self.rng.normal(0, 0.04, 2)
            way = goal - self.places[0]
            self._command = self.rng.uniform(0.6, 1.0) * way / max(np.linalg.norm(way), 1e-6)
        self._left -= 1
        return self._command

    def step(self, command: Float[ndarray, "2"]) -> None:
        """Advance all bodies by one frame under a command."""
        self.velocities[0] += RESPONSE * (SPEED * command - self.velocities[0])
        for _ in range(SUBSTEPS):
            self.places = self.places + self.velocities / SUBSTEPS
            for one in range(len(self.places)):
                for other in range(one + 1, len(self.places)):
                    self._part(one, other)
            self._keep_inside()
            self._give_way()
        self.velocities[1:] *= FRICTION

    def _part(self, one: int, other: int) -> None:
        """Move two overlapping bodies apart and cancel their approach. The pusher (row 0) is not moved."""
        gap = self.places[other] - self.places[one]
        distance = float(np.linalg.norm(gap))
        overlap = self.radii[one] + self.radii[other] - distance
        if overlap <= 0:
            return
        normal = gap / max(distance, 1e-9)
        approach = float((self.velocities[one] - self.velocities[other]) @ normal)
        share = 0.0 if one == 0 else 0.5  # share of the overlap by which the first body moves
        self.places[one] -= share * overlap * normal
        self.places[other] += (1 - share) * overlap * normal
        if approach > 0:
            self.velocities[one] -= share * approach * normal
            self.velocities[other] += (1 - share) * approach * normal

    def _keep_inside(self) -> None:
        """Keep bodies on the table: discs bounce off the rim, the pusher stops there."""
        low, high = self.radii[:, None], self.size - self.radii[:, None]
        outside = (self.places < low) | (self.places > high)
        self.places = self.places.clip(low, high)
        self.velocities[outside] *= -BOUNCE
        if outside[0].any():
            self.velocities[0][outside[0]] = 0.0

    def _give_way(self) -> None:
        """Move the pusher out of discs that are blocked by the rim or by another disc."""
        for disc in range(1, len(self.places)):
            gap = self.places[0] - self.places[disc]
            distance = float(np.linalg.norm(gap))
            overlap = self.radii[0] + self.radii[disc] - distance
            if overlap > 0:
                normal = gap / max(distance, 1e-9)
                self.places[0] += overlap * normal
                self.velocities[0] -= min(float(self.velocities[0] @ normal), 0.0) * normal

    def _scattered(self) -> Float[ndarray, "q 2"]:
        """Return random positions (x, y) at which no two bodies overlap."""
        places: list[Float[ndarray, "2"]] = []
        while len(places) < len(self.radii):
            place = self.rng.uniform(DISC, self.size - DISC)
            if all(np.linalg.norm(place - other) > 2.1 * DISC for other in places):
                places.append(place)
        return np.stack(places)


def _draw(resolution: tuple[int, int], places: Float[ndarray, "f q 2"]) -> UInt8[Tensor, "f c h w"]:
    """Return RGB frames of the table, the discs and, on top, the pusher."""
    height, width = resolution
    short = min(resolution)
    reach = int(np.ceil((max(DISC, PUSHER) + EDGE) * short)) + 1  # pixels from a centre to the edge of its patch
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    table = np.array(TABLE[0], np.float32) * (1 - down) + np.array(TABLE[1], np.float32) * down
    canvas = np.empty((len(places), height + 2 * reach, width + 2 * reach, 3), np.float32)
    canvas[:] = np.pad(np.broadcast_to(table, (height, width, 3)), ((reach, reach), (reach, reach), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(
        canvas, (2 * reach + 1, 2 * reach + 1), axis=(1, 2), writeable=True
    )
    frames, ticks = np.arange(len(places)), np.arange(-reach, reach + 1)

    def paint(centre: Float[ndarray, "f 2"], radius: float, colour: tuple[float, ...]) -> None:
        columns, rows = np.floor(centre * short).astype(np.intp).T  # the pixel that holds the centre
        across, along = (
            ((pixel[:, None] + ticks).astype(np.float32) + 0.5) / short - own[:, None]
            for pixel, own in ((columns, centre[:, 0].astype(np.float32)), (rows, centre[:, 1].astype(np.float32)))
        )
        distance = np.hypot(across[:, None, :], along[:, :, None])
        cover = ((radius - distance) / (2 * EDGE) + 0.5).clip(0, 1)[:, None]
        patch = patches[frames, rows, columns]  # frame, channel, row, column
        patch += cover * (np.array(colour, np.float32)[:, None, None] - patch)
        patches[frames, rows, columns] = patch

    for disc in range(1, places.shape[1]):
        paint(places[:, disc], DISC, CLAY)
    paint(places[:, 0], PUSHER, STEEL)
    inside = canvas[:, reach : reach + height, reach : reach + width]
    return torch.from_numpy(np.ascontiguousarray((inside + 0.5).astype(np.uint8).transpose(0, 3, 1, 2)))
