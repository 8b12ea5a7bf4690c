"""Eq. 1: a video, frame by frame."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from components.errors import InputError
from components.randomness import Stream
from components.sampling.frame import Frame, SamplerConfig, sample_frame
from components.sampling.interface import FramePredictor


@torch.no_grad()
def rollout(
    model: FramePredictor, context: Float[Tensor, "b t c h w"], frames: int, stream: Stream, config: SamplerConfig
) -> Iterator[Frame]:
    """Continues each context by so many latent frames; yields each frame as soon as it stands.

    Raises InputError for a context that holds numbers that are not finite, or no frame at all.
    """
    config.check()
    if context.shape[1] == 0:
        raise InputError("a rollout needs at least one latent frame of context")
    if not torch.isfinite(context).all():
        raise InputError("the context's latents hold numbers that are not finite; check the video and the VAE")
    memory = model.remember(context, None)
    for index in range(frames):
        frame = sample_frame(model, memory, stream.fork("frame", index), config, config.heat(index))
        yield frame
        if index + 1 < frames:
            memory = model.remember(frame.latent[:, None], memory)
