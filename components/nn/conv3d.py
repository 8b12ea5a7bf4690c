"""Causal video convolutions, factorised: a 2D convolution of each frame, then a causal 1D convolution over time.

A dense 3D kernel costs about twice as much for the same receptive field. Every tensor here has the axes `b t c h w` and
the memory layout `b t h w c` (channels last): folding frames into the batch, or pixels into one axis, needs no copy.
"""

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

TAPS = 3  # kernel size of the temporal convolution: the current frame and the two before it

Padding = Literal["repeated", "zeros"]  # padding before the first frame: copies of that frame, or zeros
Block = Callable[[int], nn.Module]  # builds layers that keep the given number of channels


def fold_blocks(
    x: Float[Tensor, "b f i h w"], time: int, space: int, padding: Padding = "repeated"
) -> Float[Tensor, "b t o _ _"]:
    """Fold blocks of time x space x space pixels into channels; the first frame is padded to a block of its own.

    1 + k time frames become 1 + k frames, and i channels become time space^2 i channels.
    """
    extra_frames = x[:, :1].expand(-1, time - 1, -1, -1, -1)
    extra_frames = torch.zeros_like(extra_frames) if padding == "zeros" else extra_frames
    x = torch.cat([extra_frames, x], dim=1) if time > 1 else x
    rows = rearrange(x, "b (t s) c (h p) (w q) -> b t h w (s p q c)", s=time, p=space, q=space)
    return rows.permute(0, 1, 4, 2, 3)


def unfold_blocks(x: Float[Tensor, "b t i h w"], time: int, space: int) -> Float[Tensor, "b f o _ _"]:
    """Invert `fold_blocks`: unfold channels into pixels and drop the padding of the first block."""
    rows = rearrange(x, "b t (s p q c) h w -> b (t s) (h p) (w q) c", s=time, p=space, q=space)
    return rows[:, time - 1 :].permute(0, 1, 4, 2, 3)


class FrameConv(nn.Module):
    """2D convolution of each frame with zero padding; height and width do not change."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o h w"]:
        """Convolve each frame."""
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalTimeConv(nn.Module):
    """1D convolution of each pixel over the current frame and the TAPS - 1 frames before it.

    The padding repeats the first frame, so that a static video gives a static output from the first frame on.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (TAPS, 1))

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o h w"]:
        """Convolve each pixel over time."""
        # a clip becomes one 2D image, frames x pixels, because 2D kernels are far faster than 3D kernels on a CPU
        image = x.transpose(1, 2).flatten(3)
        image = torch.cat([image[:, :, :1]] * (TAPS - 1) + [image], dim=2)
        return self.conv(image).unflatten(3, x.shape[3:]).transpose(1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, so that no information passes between pixels or frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """Normalise the channels of each pixel."""
        return self.norm(x.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)


class ResidualBlock(nn.Module):
    """x + time(SiLU(space(norm(x)))): a 3x3 convolution in space, then TAPS frames in time; initially the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        time = CausalTimeConv(channels, channels)
        for parameter in time.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(ChannelNorm(channels), FrameConv(channels, channels, 3), nn.SiLU(), time)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """Apply the block; the output has the shape of x."""
        return x + self.layers(x)


class FrameBlock(nn.Module):
    """x + conv(SiLU(conv(norm(x)))) with 3x3 convolutions of each frame alone; initially the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = FrameConv(channels, channels, 3)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.Sequential(ChannelNorm(channels), FrameConv(channels, channels, 3), nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t i h w"]:
        """Apply the block; the output has the shape of x."""
        return x + self.layers(x)


class Downsample(nn.Module):
    """Downsampling by 2 in space: a linear map of each 2x2 square of pixels to one pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = FrameConv(4 * inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o _ _"]:
        """Return x at half the height and width."""
        return self.mix(fold_blocks(x, 1, 2))


class Upsample(nn.Module):
    """Upsampling by 2 in space: a linear map of each pixel to a 2x2 square of pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = FrameConv(inputs, 4 * outputs, 1)

    def forward(self, x: Float[Tensor, "b t i h w"]) -> Float[Tensor, "b t o _ _"]:
        """Return x at twice the height and width."""
        return unfold_blocks(self.mix(x), 1, 2)
