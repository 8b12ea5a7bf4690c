"""Convolutions over videos that never look ahead: space by 2D convolutions of each frame, time by causal taps.

A dense 3D kernel costs about twice as much for the same field of view. Every tensor here is `b t c h w` over memory
laid out as `b t h w c` (channels last): frames fold into the batch and pixels into a column without a copy.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

TAPS = 3  # frames that a temporal convolution sees: this one and the two before it

First = Literal["repeated", "zeros"]  # what stands before the first frame, which is a block of its own
Block = Callable[[int], nn.Module]  # from a number of channels to layers that keep it


def merge(
    x: Float[Tensor, "b f i h w"], time: int, space: int, first: First = "repeated"
) -> Float[Tensor, "b t o _ _"]:
    """Blocks of time x space x space pixels become channels; the first frame is a block of its own.

    1 + k time frames become 1 + k, and i channels become time space^2 i.
    """
    still = x[:, :1].expand(-1, time - 1, -1, -1, -1)
    still = torch.zeros_like(still) if first == "zeros" else still
    x = torch.cat([still, x], dim=1) if time > 1 else x
    rows = rearrange(x, "b (t s) c (h p) (w q) -> b t h w (s p q c)", s=time, p=space, q=space)
    return rows.permute(0, 1, 4, 2, 3)


def split(x: Float[Tensor, "b t i h w"], time: int, space: int) -> Float[Tensor, "b f o _ _"]:
    """The inverse of `merge`: of the first block only the last frame is kept."""
    rows = rearrange(x, "b t (s p q c) h w -> b (t s) (h p) (w q) c", s=time, p=space, q=space)
    return rows[:, time - 1 :].permute(0, 1, 4, 2, 3)


class FrameConv(nn.Module):
    """A 2D convolution of each frame, size kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o h w"]:
        """Each frame convolved, with zeros around it."""
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalTimeConv(nn.Module):
    """A convolution of each pixel over this frame and the TAPS - 1 before it; before the first frame there is zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (TAPS, 1))

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o h w"]:
        """Each pixel convolved over time."""
        # one picture a clip, frames down and pixels across: 2D kernels are far faster than 3D ones on a CPU
        picture = F.pad(x.transpose(1, 2).flatten(3), (0, 0, TAPS - 1, 0))
        return self.conv(picture).unflatten(3, x.shape[3:]).transpose(1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, so that no pixel and no frame learns of another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """Each pixel's channels, centred and scaled."""
        return self.norm(x.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)


class ResidualBlock(nn.Module):
    """x + time(SiLU(space(norm(x)))): 3x3 pixels of a frame, then TAPS frames of a pixel; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        time = CausalTimeConv(channels, channels)
        for parameter in time.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(ChannelNorm(channels), FrameConv(channels, channels, 3), nn.SiLU(), time)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """x and a correction."""
        return x + self.layers(x)


class FrameBlock(nn.Module):
    """x + conv(SiLU(conv(norm(x)))), both of 3x3 pixels of each frame alone; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = FrameConv(channels, channels, 3)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(ChannelNorm(channels), FrameConv(channels, channels, 3), nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """x and a correction."""
        return x + self.layers(x)


class Down(nn.Module):
    """Half the height and width, by a convolution of each 2x2 square."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = FrameConv(4 * inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o _ _"]:
        """Sides halved."""
        return self.mix(merge(x, 1, 2))


class Up(nn.Module):
    """Twice the height and width, by a transposed convolution of each pixel into a 2x2 square."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = FrameConv(inputs, 4 * outputs, 1)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o _ _"]:
        """Sides doubled."""
        return split(self.mix(x), 1, 2)
