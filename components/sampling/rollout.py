"""Continue videos frame by frame (Eq. 1)."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.sampling.frame import Draft, Frame, SamplerConfig, sample_sets
from components.sampling.interface import FramePredictor


@torch.no_grad()
def rollout(
    model: FramePredictor, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, config: SamplerConfig
) -> Iterator[Frame]:
    """Continue each context by `frames` latent frames, and yield each frame as soon as it is sampled.

    The frames of a group are sampled together and yielded one after the other. Raises InputError if a sampler setting
    is out of range, the context holds NaN or infinity, or the context is empty and the model needs one.
    """
    for start, draft in drafts(model, context, frames, stream, config):
        if draft.share == 1:
            yield from draft.frames()[: frames - start]


@torch.no_grad()
def drafts(
    model: FramePredictor, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, config: SamplerConfig
) -> Iterator[tuple[int, Draft]]:
    """Continue videos as `rollout` does, but yield after each set of tokens.

    Yields the number of frames that are already finished, and the frames in progress. Raises the errors of `rollout`.
    """
    if not torch.isfinite(context).all():
        raise InputError("the latents of the context are not finite (NaN or infinity); check the video and the VAE")
    memory = model.remember(context, None)
    for start in range(0, frames, model.group):
        for draft in sample_sets(model, memory, stream.fork("frame", start), config, config.noise_scale(start)):
            yield start, draft
        if start + model.group < frames:
            latents = torch.stack([frame.latent for frame in draft.frames()], dim=1)
            memory = model.remember(latents, memory)
