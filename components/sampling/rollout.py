"""Eq. 1: a video, frame by frame."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from components.errors import InputError
from components.randomness import Stream
from components.sampling.frame import Draft, Frame, SamplerConfig, sample_sets
from components.sampling.interface import FramePredictor


@torch.no_grad()
def rollout(
    model: FramePredictor, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, config: SamplerConfig
) -> Iterator[Frame]:
    """Continues each context by so many latent frames; yields each frame as soon as it stands.

    A group of frames that are predicted together counts as predicted at once. Raises InputError for a context that
    holds numbers that are not finite, or no frame for a model that cannot begin from nothing.
    """
    for begin, draft in drafts(model, context, frames, stream, config):
        if draft.share == 1:
            yield from draft.frames()[: frames - begin]


@torch.no_grad()
def drafts(
    model: FramePredictor, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, config: SamplerConfig
) -> Iterator[tuple[int, Draft]]:
    """The same, set after set: how many frames stood before, and the next ones as far as they are known."""
    config.check()
    if not torch.isfinite(context).all():
        raise InputError("the context's latents hold numbers that are not finite; check the video and the VAE")
    memory = model.remember(context, None)
    for begin in range(0, frames, model.group):
        for draft in sample_sets(model, memory, stream.fork("frame", begin), config, config.heat(begin)):
            yield begin, draft
        if begin + model.group < frames:
            latents = torch.stack([frame.latent for frame in draft.frames()], dim=1)
            memory = model.remember(latents, memory)
