"""A linear autoencoder of blocks of pixels, initialised with their principal components (PCA).

A block is the pixels of one latent pixel: stride_time frames of stride_space x stride_space RGB pixels. PCA is the
linear autoencoder of least squared error. It takes one pass over a few hundred clips.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count, Fraction
from components.nn.conv3d import FrameConv, Padding, fold_blocks, unfold_blocks

SMALLEST_SCALE: Final = 1e-3  # of a component; smaller ones are float32 rounding errors
NOISE: Final = 0.05  # squared error that the initial posterior's noise adds, as a share of the PCA's own error


class LinearConfig(Config):
    """Initialise with the PCA of `clips` clips spread evenly over the training split (all of them if it has fewer)."""

    clips: Count
    whitening: Fraction  # 1: unit variance in every channel; 0: errors weigh as in pixels


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of blocks, largest variance first."""

    mean: Float[Tensor, "i"]  # the mean block
    basis: Float[Tensor, "c i"]  # orthonormal rows; the largest entry of each is positive
    variance: Float[Tensor, "c"]  # of each component over the blocks
    residual: float  # summed variance of the omitted components


def components(batches: Iterable[Float[Tensor, "_ t i h w"]], channels: int) -> Components:
    """Return the PCA of the blocks in these batches, computed in float64.

    Raise InputError if there are fewer blocks than channels.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        rows = batch.movedim(2, -1).flatten(0, -2).double().cpu()
        count, total, squares = count + len(rows), total + rows.sum(dim=0), squares + rows.T @ rows
    if count < channels:
        raise InputError(
            f"the training clips for the PCA have {count} blocks, fewer than the {channels} channels of the latents; "
            "raise autoencoder.linear.clips or use fewer channels"
        )
    mean = total / count
    values, vectors = torch.linalg.eigh(squares / count - mean.outer(mean))
    values, basis = values.flip(0).clamp(min=0.0), vectors.flip(1).T
    largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
    return Components(mean, (basis * largest.sign())[:channels], values[:channels], float(values[channels:].sum()))


class LinearPath(nn.Module):
    """Encode blocks x to the mean P (x - mu) / scale and one log variance per channel; decode z to P^T (scale z) + mu.

    P and P^T are separate weights, which training may change independently. The computation is in float32, because the
    components differ in size by orders of magnitude.
    """

    def __init__(
        self, time: int, space: int, channels: int, padding: Padding, log_variance: float, whitening: float
    ) -> None:
        """Take blocks of time x space x space pixels; `log_variance` bounds the initial log variances from above."""
        super().__init__()
        self.time, self.space, self.padding, self.max_log_variance = time, space, padding, log_variance
        self.whitening = whitening
        values = 3 * time * space**2
        self.analysis, self.synthesis = FrameConv(values, channels, 1), FrameConv(channels, values, 1)
        self.middle = nn.Parameter(torch.zeros(values))
        self.scale = nn.Parameter(torch.ones(channels))
        self.log_variance = nn.Parameter(torch.full((channels,), log_variance))

    def encode(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Return means and log variances in float32."""
        with _float32(clips.device):
            x = self.blocks(clips.float()) - self.middle[:, None, None]
            mean = self.analysis(x) / self.scale[:, None, None]
        return torch.cat([mean, self.log_variance[:, None, None].expand_as(mean)], dim=2)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f o _ _"]:
        """Return the decoded clips in float32."""
        with _float32(latents.device):
            x = self.synthesis(latents.float() * self.scale[:, None, None]) + self.middle[:, None, None]
            return unfold_blocks(x, self.time, self.space)

    def blocks(self, clips: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        """Return the clips with each block of pixels folded into channels."""
        return fold_blocks(clips, self.time, self.space, self.padding)

    @torch.no_grad()
    def initialise_pca(self, clips: Iterable[Float[Tensor, "_ f c h w"]]) -> None:
        """Set the weights to the PCA of these clips in [-1, 1], with latents of unit variance on average.

        A channel of variance v is divided by v^(whitening / 2). With whitening below 1, channels that matter more in
        pixels keep a larger variance, so a model of the latents spends more of its capacity on them.

        The posterior's noise adds the same error through every channel, in total NOISE times the PCA's own error. This
        is reverse water-filling, which keeps noise from hiding large components (Cover and Thomas, section 10.3.3).
        Raise InputError if the clips have fewer blocks than there are channels.
        """
        pca = components(map(self.blocks, clips), len(self.scale))
        deviation = pca.variance.sqrt().clamp(min=SMALLEST_SCALE)
        scale = deviation**self.whitening
        scale = scale * (deviation / scale).square().mean().sqrt()
        noise = NOISE * pca.residual / (len(scale) * scale.square())
        self.middle.copy_(pca.mean)
        self.scale.copy_(scale)
        self.analysis.conv.weight.copy_(pca.basis[:, :, None, None])
        self.synthesis.conv.weight.copy_(pca.basis.T[:, :, None, None])
        for side in (self.analysis, self.synthesis):
            nn.init.zeros_(side.conv.get_parameter("bias"))
        self.log_variance.copy_(noise.clamp(min=1e-8).log().clamp(max=self.max_log_variance))


def _float32(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that turns autocast off. The meta device, used to count FLOPs, has no autocast to turn off."""
    supported = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if supported else nullcontext()
