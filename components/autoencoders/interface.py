"""What the pipeline knows of a video VAE: clip -> moments, latents -> clip, and how their frames are counted."""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Precision = Literal["float32", "bfloat16"]


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
        """Whether no latent frame depends on pixel frames after its own, and no decoded frame on later latents.

        Then a context has the same latents with its future and without it, which is what prediction begins with. A VAE
        that looks both ways inside of the frames of one latent frame is causal in this sense.
        """
        ...

    @property
    def frame_formula(self) -> str:
        """How many latent frames f pixel frames give, and what each is made of, in words."""
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


def shortest(autoencoder: Autoencoder, frames: int) -> int:
    """The length of the shortest clip of at least so many frames that is whole latent frames."""
    latent_frames = 1
    while autoencoder.pixel_frames(latent_frames) < frames:
        latent_frames += 1
    return autoencoder.pixel_frames(latent_frames)


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
