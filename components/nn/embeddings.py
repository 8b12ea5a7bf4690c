"""Patches, and positions in space and time."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

FREQUENCIES = 256  # of the sinusoids for time, in frames and in flow alike


def patchify(frames: Float[Tensor, "*s c h w"], patch: int) -> Float[Tensor, "*s n p"]:
    """A frame as tokens, row by row; each holds patch x patch x c numbers."""
    return rearrange(frames, "... c (h a) (w b) -> ... (h w) (a b c)", a=patch, b=patch)


def unpatchify(x: Float[Tensor, "*s n p"], height: int, patch: int) -> Float[Tensor, "*s c h w"]:
    """The frame that the tokens stand for; `height` is the number of rows of tokens."""
    return rearrange(x, "... (h w) (a b c) -> ... c (h a) (w b)", h=height, a=patch, b=patch)


def sinusoid(position: Float[Tensor, "*s"], width: int) -> Float[Tensor, "*s d"]:
    """Sine and cosine of the position at frequencies from 1 down to 1/10000: first all sines, then all cosines."""
    exponent = torch.arange(width // 2, device=position.device, dtype=torch.float32) / (width // 2)
    angle = position[..., None].float() * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_position(height: int, width: int, dimension: int) -> Float[Tensor, "n d"]:
    """Additive positions of a grid of tokens: half of the numbers for the column, half for the row (NOVA's layout)."""
    columns = sinusoid(torch.arange(width).float(), dimension // 2)
    rows = sinusoid(torch.arange(height).float(), dimension // 2)
    grid = torch.cat([columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)
    return grid.flatten(0, 1)


class TimePosition(nn.Module):
    """The index of a frame as an additive position: sinusoids, a two-layer MLP and a LayerNorm (NOVA)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, frame: Float[Tensor, "t"]) -> Float[Tensor, "t d"]:
        """Positions of the frames with these indices; the index is absolute, never rescaled to the length of a clip."""
        return self.norm(self.mlp(sinusoid(frame, FREQUENCIES)))
