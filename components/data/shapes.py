"""A simulated source that needs numpy alone: coloured shapes that drift, bounce, spin and pass over one another.

Every object is pushed now and then in a random direction and slows down between pushes, so what comes next is as
uncertain as with a robot arm, whose stand-in this is where pybullet cannot be installed.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from pydantic import Field, model_validator
from torch import Tensor

from components.config import Config
from components.randomness import derive

SIDES = 4  # half-planes that bound a polygon; a triangle repeats one
PUSH_CHANCE = 0.15  # of each object, each frame
PUSH_STRENGTH = 0.03  # of the short side, a frame
FRICTION = 0.93  # share of the speed that is left a frame later


class Episodes(Config):
    """How many episodes each split has."""

    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)


class Simulation(Config):
    """What every simulated source is told: `resolution` (height, width) in pixels, fewest and most `objects`."""

    episodes: Episodes
    frames: int = Field(ge=2)
    resolution: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]]
    objects: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    seed: int = Field(ge=0)
    fps: int = Field(ge=1, le=60)

    @model_validator(mode="after")
    def _objects_in_order(self) -> "Simulation":
        if self.objects[0] > self.objects[1]:
            raise ValueError(
                f"the fewest objects come first, then the most: {list(self.objects)} is the wrong way round"
            )
        return self


class ShapesConfig(Simulation):
    """Moving shapes: `objects` of them on a textured ground."""

    kind: Literal["shapes"]


def simulate(config: ShapesConfig, split: str, episode: int) -> UInt8[Tensor, "f c h w"]:
    """An RGB episode, which belongs to the config's seed, the split and its number, whatever ran before."""
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
    return torch.from_numpy(np.ascontiguousarray((inside + 0.5).astype(np.uint8).transpose(0, 3, 1, 2)))


def _journeys(
    rng: np.random.Generator, radii: Float[ndarray, "q"], size: Float[ndarray, "2"], frames: int
) -> Float[ndarray, "q f 2"]:
    """Centres (row, column) in pixels: pushed, slowed by friction, reflected at the edges."""
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
    """The share of each pixel of a shape's patch that the shape covers: discs, triangles and rectangles, turning."""
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
    """Bright colours, well apart in hue."""
    hues = (rng.random() + (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count) % 1
    ramps = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (255 * (0.25 + 0.75 * ramps * rng.uniform(0.7, 1, (count, 1)))).clip(0, 254).astype(np.float32)


def _ground(rng: np.random.Generator, height: int, width: int) -> Float[ndarray, "h w 3"]:
    """A dim, still ground: smooth stains and a fine grain."""
    stains = rng.uniform(60, 130, (6, 6, 3))
    rows = np.linspace(0, 5, height)
    columns = np.linspace(0, 5, width)
    tall = _blend(stains, rows)
    smooth = _blend(tall.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    return (smooth + rng.normal(0, 5, (height, width, 1))).clip(0, 254).astype(np.float32)


def _blend(table: Float[ndarray, "h w 3"], places: Float[ndarray, "q"]) -> Float[ndarray, "q w 3"]:
    """Rows of a table at fractional places."""
    low = np.minimum(places.astype(np.intp), len(table) - 2)
    share = (places - low)[:, None, None]
    return table[low] * (1 - share) + table[low + 1] * share
