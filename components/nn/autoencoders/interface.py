"""The interface of every video VAE: clip -> moments, latents -> clip, and the number of frames of each."""

import itertools
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Precision = Literal["float32", "bfloat16"]


@runtime_checkable
class Autoencoder(Protocol):
    """A video VAE. Clips lie in [-1, 1]; the channels of moments are first the means, then the log variances."""

    @property
    def strides(self) -> tuple[int, int]:
        """Pixel frames per latent frame, and pixels per latent pixel along height and width."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent frame; moments have twice as many."""
        ...

    @property
    def causal(self) -> bool:
        """Whether no latent frame depends on pixel frames after its own, and no decoded frame on later latent frames.

        If so, the latents of a context do not depend on the frames after it, as prediction requires. A VAE is causal in
        this sense even if it is bidirectional within the pixel frames of one latent frame.
        """
        ...

    @property
    def frame_formula(self) -> str:
        """The number of latent frames of f pixel frames, and the pixel frames that each depends on, as text."""
        ...

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Return float32 moments of clips in [-1, 1]: i = 2 x `channels`, height and width divided by the stride."""
        ...

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Return the decoded clips in float32: about [-1, 1], not clamped."""
        ...

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames for `frames` pixel frames. Raise InputError for a wrong length."""
        ...

    def pixel_frames(self, latent_frames: int) -> int:
        """Return the number of pixel frames that `latent_frames` latent frames decode to."""
        ...


def shortest(autoencoder: Autoencoder, frames: int) -> int:
    """Return the length of the shortest clip that has at least `frames` pixel frames and fits the VAE."""
    latent_frames = 1
    while autoencoder.pixel_frames(latent_frames) < frames:
        latent_frames += 1
    return autoencoder.pixel_frames(latent_frames)


def transitions(autoencoder: Autoencoder, frames: int) -> tuple[range, ...]:
    """Return a range of pixel frames for each latent frame but the last, for a clip of `frames` pixel frames.

    The range holds the pixel frames whose successors belong to the next latent frame. It starts at the last pixel frame
    of the latent frame and ends before the last pixel frame of the next one.
    """
    ends: list[int] = []  # the last pixel frame of each latent frame
    while (end := autoencoder.pixel_frames(len(ends) + 1) - 1) < frames:
        ends.append(end)
    return tuple(range(start, stop) for start, stop in itertools.pairwise(ends))


def to_float(clips: UInt8[Tensor, "... c h w"]) -> Float[Tensor, "... c h w"]:
    """Return pixels 0..255 mapped to [-1, 1] in float32."""
    return clips.float() / 127.5 - 1.0


def to_uint8(clips: Float[Tensor, "... c h w"]) -> UInt8[Tensor, "... c h w"]:
    """Return values in [-1, 1] mapped to pixels 0..255 and rounded. Values outside are clamped."""
    return ((clips.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sample(moments: Float[Tensor, "b t i h w"], noise: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """Return latents from moments and unit normal noise: mean + exp(log variance / 2) noise."""
    mean, log_variance = moments.chunk(2, dim=2)
    return mean + (0.5 * log_variance).exp() * noise
