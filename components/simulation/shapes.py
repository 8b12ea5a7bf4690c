"""A simulation that needs only numpy: coloured shapes that drift, bounce, spin and occlude one another.

Random pushes accelerate each object at random times, and friction slows it down between pushes. The future is therefore
as uncertain as with a robot arm. The simulation replaces the arm where pybullet cannot be installed.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from pydantic import model_validator
from torch import Tensor

from components.foundation.config import Config
from components.foundation.randomness import derive
from components.foundation.settings.ranges import Count, Seed, Several, Whole, within

SIDES = 4  # half-planes that bound a polygon; a triangle repeats one
PUSH_CHANCE = 0.15  # per object and frame
PUSH_STRENGTH = 0.03  # standard deviation of a push: a share of the short side per frame
FRICTION = 0.93  # share of the speed that remains one frame later

Side = Annotated[int, within(ge=16)]  # pixels


class Episodes(Config):
    """Number of episodes, each one video, of each split."""

    train: Whole
    val: Whole
    test: Whole


class Simulation(Config):
    """Settings common to all simulations: `resolution` is (height, width) in pixels, `objects` (minimum, maximum)."""

    episodes: Episodes
    frames: Several  # of each episode
    resolution: tuple[Side, Side]  # height, width in pixels
    objects: tuple[Count, Count]  # minimum and maximum number in an episode
    seed: Seed
    fps: Annotated[int, within(ge=1, le=60)]  # frames per second of simulated time and of the video files

    @model_validator(mode="after")
    def _objects_in_order(self) -> "Simulation":
        if self.objects[0] > self.objects[1]:
            raise ValueError(
                f"objects is {list(self.objects)}, but the minimum must not exceed the maximum; swap the numbers"
            )
        return self


@dataclass(frozen=True, slots=True)
class Episode:
    """A simulated video, and the command given at each of its frames: a command acts from its frame to the next."""

    clip: UInt8[Tensor, "f c h w"]
    commands: Float[ndarray, "f i"] | None  # shares of the fastest motion, in [-1, 1]; None: the world has none


class ShapesConfig(Simulation):
    """Settings of the `objects` moving shapes on a textured background."""

    kind: Literal["shapes"]


def simulate(config: ShapesConfig, split: str, episode: int) -> Episode:
    """Return an RGB episode that depends only on the config, the split and the episode's number."""
    rng = np.random.default_rng(derive(config.seed, "shapes", split, episode))
    height, width = config.resolution
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    radii = min(config.resolution) * rng.uniform(0.07, 0.14, count)
    reach = int(np.ceil(1.42 * radii.max())) + 1  # pixels from the centre of a shape to the edge of its patch
    centres = _journeys(rng, radii, np.array(config.resolution, np.float64), config.frames)
    corners = np.floor(centres).astype(np.intp)  # the pixel that holds the centre
    coverage = _coverage(rng, radii, centres - corners - 0.5, reach)
    canvas = np.empty((config.frames, height + 2 * reach, width + 2 * reach, 3), np.float32)
    canvas[:] = np.pad(_ground(rng, height, width), ((reach, reach), (reach, reach), (0, 0)))
    colours = _colours(rng, count)
    patches = np.lib.stride_tricks.sliding_window_view(
        canvas, (2 * reach + 1, 2 * reach + 1), axis=(1, 2), writeable=True
    )
    frames = np.arange(config.frames)
    for shape in range(count):  # far to near, so that later ones hide earlier ones
        rows, columns = corners[shape].T
        patch = patches[frames, rows, columns]  # frame, channel, row, column
        patch += coverage[shape, :, None] * (colours[shape][:, None, None] - patch)
        patches[frames, rows, columns] = patch
    inside = canvas[:, reach : reach + height, reach : reach + width]
    pictures = np.ascontiguousarray((inside + 0.5).astype(np.uint8).transpose(0, 3, 1, 2))
    return Episode(torch.from_numpy(pictures), None)


def _journeys(
    rng: np.random.Generator, radii: Float[ndarray, "q"], size: Float[ndarray, "2"], frames: int
) -> Float[ndarray, "q f 2"]:
    """Return the shapes' centres (row, column) in pixels: pushed, slowed by friction, reflected at the edges."""
    count = len(radii)
    pushes = rng.normal(0, PUSH_STRENGTH * size.min(), (count, frames, 2)) * (
        rng.random((count, frames, 1)) < PUSH_CHANCE
    )
    speeds = np.empty((count, frames, 2))
    speed = rng.normal(0, PUSH_STRENGTH * size.min(), (count, 2))
    for frame in range(frames):
        speed = FRICTION * speed + pushes[:, frame]
        speeds[:, frame] = speed
    room = size - 2 * radii[:, None]
    path = (rng.random((count, 1, 2)) * room[:, None] + speeds.cumsum(1)) % (2 * room[:, None])
    return radii[:, None, None] + room[:, None] - np.abs(room[:, None] - path)


def _coverage(
    rng: np.random.Generator, radii: Float[ndarray, "q"], offsets: Float[ndarray, "q f 2"], reach: int
) -> Float[ndarray, "q f h w"]:
    """Return the share of each patch pixel that a shape covers, for spinning discs, triangles and rectangles."""
    count, frames = len(radii), offsets.shape[1]
    sort = rng.integers(0, 3, count)  # disc, triangle, rectangle
    steps = np.where(sort == 1, 2 * np.pi / 3, np.pi / 2)[:, None] * np.arange(SIDES)
    spin = rng.uniform(0, 2 * np.pi, count)[:, None] + rng.normal(0, 0.12, count)[:, None] * np.arange(frames)
    angles = steps[:, None] + spin[:, :, None]  # object, frame, side
    normals = np.stack([np.sin(angles), np.cos(angles)], -1)
    slender = np.where(np.arange(SIDES) % 2, rng.uniform(0.45, 1.0, (count, 1)), 1.0)
    apothems = radii[:, None] * np.where(sort[:, None] == 1, 0.6, slender)
    shifts = np.einsum("qfsx,qfx->qfs", normals, offsets) + apothems[:, None]
    ticks = np.arange(-reach, reach + 1, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij")).reshape(2, -1)
    distances = normals.astype(np.float32) @ grid - shifts.astype(np.float32)[..., None]
    outside = distances.max(2)
    for disc in np.flatnonzero(sort == 0):
        outside[disc] = np.hypot(*(grid[:, None] - offsets[disc].T.astype(np.float32)[:, :, None])) - radii[disc]
    return np.clip(0.5 - outside, 0, 1).reshape(count, frames, len(ticks), len(ticks))


def _colours(rng: np.random.Generator, count: int) -> Float[ndarray, "q 3"]:
    """Return `count` bright RGB colours with well separated hues."""
    hues = (rng.random() + (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count) % 1
    ramps = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (255 * (0.25 + 0.75 * ramps * rng.uniform(0.7, 1, (count, 1)))).clip(0, 254).astype(np.float32)


def _ground(rng: np.random.Generator, height: int, width: int) -> Float[ndarray, "h w 3"]:
    """Return a dim, static background: smooth stains with fine noise."""
    stains = rng.uniform(60, 130, (6, 6, 3))
    rows = np.linspace(0, 5, height)
    columns = np.linspace(0, 5, width)
    tall = _blend(stains, rows)
    smooth = _blend(tall.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    return (smooth + rng.normal(0, 5, (height, width, 1))).clip(0, 254).astype(np.float32)


def _blend(table: Float[ndarray, "h w 3"], positions: Float[ndarray, "q"]) -> Float[ndarray, "q w 3"]:
    """Return the rows of a table at fractional positions, interpolated linearly."""
    low = np.minimum(positions.astype(np.intp), len(table) - 2)
    share = (positions - low)[:, None, None]
    return table[low] * (1 - share) + table[low + 1] * share
