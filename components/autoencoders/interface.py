"""What the pipeline knows of a video VAE: clip -> moments, latents -> clip, and how their frames are counted."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class Autoencoder(Protocol):
    """A video VAE: pixels in [-1, 1], moments with the means first and the log variances after."""

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames of a latent frame, and pixels of a latent's side."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent frame; moments have twice as many."""
        ...

    @property
    def causal(self) -> bool:
        """Whether a latent frame depends on its own and earlier pixel frames only, and a decoded one likewise."""
        ...

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Moments in float32 of clips in [-1, 1]; i = 2 channels, sides divided by the stride."""
        ...

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Clips in float32 of latents; about [-1, 1], not clamped."""
        ...

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of so many frames. Raises InputError where the clip does not divide."""
        ...

    def pixel_frames(self, latent_frames: int) -> int:
        """Frames of the clip that so many latent frames decode to."""
        ...


def to_float(clips: UInt8[Tensor, "... c h w"]) -> Float[Tensor, "... c h w"]:
    """Pixels 0..255 as numbers in [-1, 1]."""
    return clips.float() / 127.5 - 1.0


def to_uint8(clips: Float[Tensor, "... c h w"]) -> UInt8[Tensor, "... c h w"]:
    """Numbers in [-1, 1] as pixels 0..255, rounded; what lies outside is clamped."""
    return ((clips.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sample(moments: Float[Tensor, "b t i h w"], noise: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """Latents out of the posterior: mean + exp(log variance / 2) noise."""
    mean, log_variance = moments.chunk(2, dim=2)
    return mean + (0.5 * log_variance).exp() * noise
