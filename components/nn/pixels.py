"""PSNR and SSIM between frames."""

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from components.foundation.errors import InputError

WINDOW = 11  # pixels
SIGMA = 1.5  # pixels


def psnr(x: UInt8[Tensor, "b f c h w"], y: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Return the peak signal-to-noise ratio of each clip in dB: 10 log10(255^2 / mean squared error over all frames).

    Higher is closer. Only equal clips have infinite PSNR, because the error is averaged over the frames of a clip.
    """
    return decibels(squared_errors(x, y))


def squared_errors(x: UInt8[Tensor, "b f c h w"], y: UInt8[Tensor, "b f c h w"]) -> Float64[Tensor, "b f"]:
    """Return the mean squared error of each frame, in squared grey levels of 0..255."""
    return torch.stack([(a.double() - b.double()).square().mean(dim=(1, 2, 3)) for a, b in zip(x, y, strict=True)])


def decibels(errors: Float64[Tensor, "b f"]) -> Float[Tensor, "b"]:
    """Return the PSNR of clips in dB from the mean squared errors of their frames."""
    return (10 * torch.log10(255**2 / errors.mean(dim=1))).float()


def ssim(x: UInt8[Tensor, "b f c h w"], y: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Return the structural similarity of each clip (Wang et al. 2004), 1 if equal.

    It is the mean over frames, channels and windows within the frame. Gaussian window of 11x11 with sigma 1.5,
    K1 = 0.01, K2 = 0.03, peak 255, no padding, no downsampling. Raise InputError for frames smaller than the window.
    """
    return similarities(x, y).mean(dim=1)


def similarities(x: UInt8[Tensor, "b f c h w"], y: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b f"]:
    """Return the SSIM of each frame; `ssim` is its mean. Raise InputError for frames smaller than the window."""
    if min(x.shape[-2:]) < WINDOW:
        raise InputError(
            f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, not {x.shape[-2]}x{x.shape[-1]}; "
            "use a larger resolution"
        )
    clips = [_similarity(a.double(), b.double()).mean(dim=(1, 2, 3)) for a, b in zip(x, y, strict=True)]
    return torch.stack(clips).float()


def _similarity(x: Float[Tensor, "f c h w"], y: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c _ _"]:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) - mean_x**2 + _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _blur(x: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c _ _"]:
    """Return Gaussian-weighted means over every window within the frame, by one 1D convolution per axis."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    planes = x.flatten(0, 1).unsqueeze(1)
    planes = functional.conv2d(functional.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.squeeze(1).unflatten(0, x.shape[:2])
