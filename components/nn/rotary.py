"""Rotary positions in time and space: queries and keys are turned, so that attention sees distances and no places.

Nothing here is learned, and so a model may be used on more frames and larger grids than it was trained on.
"""

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10_000  # the slowest frequency is about one BASE-th of the fastest
SMALLEST = 8  # numbers of a head that time, rows and columns can share


def grid(first: int, frames: int, height: int, width: int, device: torch.device) -> Float[Tensor, "t n 3"]:
    """Frame, row and column of every token of frames number `first`, `first` + 1, ..., row by row."""
    spans = ((first, first + frames), (0, height), (0, width))
    axes = (torch.arange(*span, device=device) for span in spans)  # made there: a copy would keep the GPU waiting
    return torch.cartesian_prod(*axes).float().unflatten(0, (frames, height * width))


def angles(position: Float[Tensor, "*s 3"], dimension: int) -> Float[Tensor, "*s o"]:
    """By how much each pair of numbers of a head is turned at these positions; `dimension` is the size of a head.

    About an eighth of the pairs tells time, the others rows and columns in equal parts: 8, 28 and 28 numbers of 64, as
    in NOVA's rotary mode.
    """
    space = 2 * (7 * dimension // 32)
    parts = []
    for axis, size in enumerate((dimension - 2 * space, space, space)):
        exponent = torch.arange(0, size, 2, device=position.device, dtype=torch.float32) / size
        parts.append(position[..., axis, None] * BASE**-exponent)
    return torch.cat(parts, dim=-1)


def rotate(x: Float[Tensor, "b e l i"], angle: Float[Tensor, "... l i//2"]) -> Float[Tensor, "b e l i"]:
    """Queries or keys, turned: number j of a head is paired with number j + i/2. Computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
