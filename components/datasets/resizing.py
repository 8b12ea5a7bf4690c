"""Crop and resize frames."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

Window = tuple[int, int, int, int]  # top, left, height, width in pixels


def window(shape: tuple[int, int], size: tuple[int, int], pixel: float = 1.0) -> Window:
    """Return the central part of pictures of `shape` that `fit` keeps for frames of `size` (both height, width).

    `pixel` is the width of a pixel of the pictures, divided by its height. As players show it, the part has the aspect
    ratio of `size`. If the pictures have square pixels and are one row or column larger than `size`, that row or column
    is cut off, because `write` adds one to make a size even.
    """
    if pixel == 1 and all(0 <= old - new <= 1 for old, new in zip(shape, size, strict=True)):
        covered = size
    else:
        wanted = size[0], size[1] / pixel
        scale = max(wanted[0] / shape[0], wanted[1] / shape[1])
        covered = max(1, min(shape[0], round(wanted[0] / scale))), max(1, min(shape[1], round(wanted[1] / scale)))
    return (shape[0] - covered[0]) // 2, (shape[1] - covered[1]) // 2, *covered


def resize(clip: UInt8[Tensor, "f c h w"], size: tuple[int, int]) -> UInt8[Tensor, "f c ..."]:
    """Return a copy of the frames at `size` (height, width): bilinear, antialiased; unchanged if already that size."""
    if tuple(clip.shape[-2:]) == tuple(size):
        return clip.clone(memory_format=torch.contiguous_format)
    # in uint8, which is twelve times as fast as in floats and differs by at most one grey level
    return functional.interpolate(clip, size, mode="bilinear", antialias=True).contiguous()


def fit(clip: UInt8[Tensor, "f c h w"], size: tuple[int, int]) -> UInt8[Tensor, "f c ..."]:
    """Return the frames cropped to the aspect ratio of `size` (height, width), then resized: bilinear, antialiased.

    The crop is central. Frames of the right size are returned unchanged.
    """
    top, left, height, width = window((clip.shape[-2], clip.shape[-1]), size)
    return resize(clip[..., top : top + height, left : left + width], size)
