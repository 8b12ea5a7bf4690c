"""Patch tokens, and position embeddings in space and time."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

FREQUENCIES = 256  # channels of the sinusoidal embeddings of frame indices and of flow times


def patchify(frames: Float[Tensor, "*s c h w"], patch: int) -> Float[Tensor, "*s n p"]:
    """Split a frame into tokens of patch x patch x c channels, in row-major order."""
    return rearrange(frames, "... c (h a) (w b) -> ... (h w) (a b c)", a=patch, b=patch)


def unpatchify(x: Float[Tensor, "*s n p"], height: int, patch: int) -> Float[Tensor, "*s c h w"]:
    """Invert `patchify`; `height` is the number of rows of tokens."""
    return rearrange(x, "... (h w) (a b c) -> ... c (h a) (w b)", h=height, a=patch, b=patch)


def sinusoid(position: Float[Tensor, "*s"], width: int) -> Float[Tensor, "*s d"]:
    """Return sines, then cosines, of the position at frequencies from 1 down to 1/10000."""
    exponent = torch.arange(width // 2, device=position.device, dtype=torch.float32) / (width // 2)
    angle = position[..., None].float() * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_position(height: int, width: int, dimension: int) -> Float[Tensor, "n d"]:
    """Return additive positions of a token grid: the first half of the channels for columns, then rows (NOVA)."""
    columns = sinusoid(torch.arange(width).float(), dimension // 2)
    rows = sinusoid(torch.arange(height).float(), dimension // 2)
    grid = torch.cat([columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)
    return grid.flatten(0, 1)


class TimePosition(nn.Module):
    """Additive position embedding of a frame index: sinusoids, a two-layer MLP and a LayerNorm (NOVA)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, frame: Float[Tensor, "t"]) -> Float[Tensor, "t d"]:
        """Embed frame indices, which count from the start of the video and are not rescaled to the clip length."""
        return self.norm(self.mlp(sinusoid(frame, FREQUENCIES)))


BASE = 10_000  # the lowest frequency is about 1 / BASE of the highest
SMALLEST = 8  # smallest head dimension that can be divided among time, rows and columns


def grid(first: int, frames: int, height: int, width: int, device: torch.device) -> Float[Tensor, "t n 3"]:
    """Return (frame, row, column) of every token of frames `first`, `first` + 1, ..., in row-major order."""
    spans = ((first, first + frames), (0, height), (0, width))
    axes = (torch.arange(*span, device=device) for span in spans)  # created on the device: a copy would block the GPU
    return torch.cartesian_prod(*axes).float().unflatten(0, (frames, height * width))


def angles(position: Float[Tensor, "*s 3"], dimension: int) -> Float[Tensor, "*s o"]:
    """Return the rotation angle in radians of each channel pair of a head; `dimension` is the head dimension.

    About one eighth of the channels encode time; rows and columns share the rest equally. For 64 channels that is
    8, 28 and 28, as in NOVA's rotary mode.
    """
    space = 2 * (7 * dimension // 32)
    parts = []
    for axis, size in enumerate((dimension - 2 * space, space, space)):
        exponent = torch.arange(0, size, 2, device=position.device, dtype=torch.float32) / size
        parts.append(position[..., axis, None] * BASE**-exponent)
    return torch.cat(parts, dim=-1)


def rotate(x: Float[Tensor, "b e l i"], angle: Float[Tensor, "... l i//2"]) -> Float[Tensor, "b e l i"]:
    """Rotate queries or keys by their angles; channel j of a head is paired with channel j + i/2. Runs in float32."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
