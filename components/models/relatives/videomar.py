"""VideoMAR (arXiv 2506.14168): a decoder-only transformer, trained by the next-frame diffusion loss.

In training, the frames before frame t are clean, frame t is partly masked, and only its masked tokens have a loss.
Frames after t are left out, because frame t does not attend to them. A flow head replaces the paper's DDPM head.
"""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.foundation.randomness import Stream
from components.models import masking
from components.models.canvasmar.spatial_mar import gather
from components.models.conditions.interface import AnyCaption, ConditionedClips, Conditioner, split_condition
from components.models.layers.attention import frame_causal
from components.models.layers.blocks import PlainBlock
from components.models.layers.cross import CrossBlock
from components.models.layers.embeddings import patchify
from components.models.relatives.frame_by_frame import require_frames
from components.models.relatives.masked_decoder import FlowDraws, MaskedDecoder, MaskedDecoderConfig
from components.models.relatives.video_transformer import Memory
from components.nn.losses import Losses

INVERSE_GOLDEN_RATIO: Final = (5**0.5 - 1) / 2  # its multiples mod 1 cover [0, 1) evenly, however many are taken


class VideoMARConfig(MaskedDecoderConfig):
    """VideoMAR. The paper's condition is 300 hidden states of Qwen2-1.5B per caption, with dropout 0.1."""

    kind: Literal["videomar"]
    condition: AnyCaption | None

    def build(self) -> "VideoMAR":
        """Build the model with newly initialised weights. Raises InputError if parts of the config do not fit."""
        return VideoMAR(self)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws of one training step."""

    target: int  # index of the predicted frame, the same for every clip and on every worker
    visible: int  # number of visible tokens of the target frame
    order: Int[Tensor, "b n"]  # grid indices of the tokens, visible tokens first
    flow: FlowDraws
    dropped: Bool[Tensor, "b"]  # clips whose condition is dropped


def validation_target(batch_index: int, frames: int) -> int:
    """Return the target frame of the validation batch with this index, for clips of `frames` latent frames.

    frames - 1 consecutive batches give every frame but the first exactly once. Consecutive targets are far apart, so
    that a few batches already cover the clip evenly.
    """
    order = sorted(range(frames - 1), key=lambda index: index * INVERSE_GOLDEN_RATIO % 1)
    return 1 + order[batch_index % len(order)]


class VideoMAR(MaskedDecoder):
    """Frame-causal transformer in which all blocks process clean and mask tokens together."""

    config: VideoMARConfig

    def __init__(self, config: VideoMARConfig) -> None:
        super().__init__(config, PlainBlock if config.condition is None else CrossBlock)
        self.condition = None if config.condition is None else Conditioner(config.condition, config.decoder.width)

    @property
    def guidable(self) -> bool:
        """Whether guidance works: the model was trained with condition dropout, or takes no condition."""
        return self.config.condition is None or self.config.condition.drop > 0

    def initial_memory(self, condition: Float[Tensor, "b l i"]) -> Memory:
        """Return the memory of videos with these conditions before their first frame.

        Raises InputError if the model takes no conditions.
        """
        if self.condition is None:
            return super().initial_memory(condition)
        return self.decoder.initial_memory(self.condition(condition))

    def empty_memory(self, batch: int) -> Memory:
        """Return the memory of `batch` videos before their first frame, with the empty condition."""
        return self.decoder.initial_memory(None if self.condition is None else self.condition.empty(batch))

    def draw(
        self, clips: Float[Tensor, "b t c h w"] | ConditionedClips, stream: Stream, visible: int | None = None
    ) -> Draws:
        """Draw the target frame t, its mask, flow times and noise, and the clips whose condition is dropped.

        t is uniform over all frames but the first; in validation, it is the `validation_target` of the batch. Raises
        InputError if a clip has fewer than two latent frames, or its condition does not fit `config.condition`.
        """
        condition = self.config.condition
        frames = require_frames(split_condition(clips, condition)[0])
        target = int(torch.randint(1, frames, (), generator=stream.fork("target").shared()))
        if stream.batch_index is not None:
            target = validation_target(stream.batch_index, frames)
        visible = self.visible(stream) if visible is None else visible
        return Draws(
            target=target,
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(self.tokens)),
            flow=FlowDraws.draw(self.tokens - visible, self.channels, self.config.head.repeats, stream),
            dropped=stream.fork("condition").uniform() < (0.0 if condition is None else condition.drop),
        )

    def forward(self, clips: Float[Tensor, "b t c h w"] | ConditionedClips, draws: Draws) -> Losses:
        """Return the flow loss of the masked tokens of the target frame."""
        latents, clip_condition = split_condition(clips, self.config.condition)
        condition: tuple[Tensor, ...] = ()
        if self.condition is not None and clip_condition is not None:
            condition = (self.condition(clip_condition, draws.dropped),)
        past = patchify(latents[:, : draws.target], 1).flatten(1, 2)
        current = gather(patchify(latents[:, draws.target], 1), draws.order)
        visible, masked = current.split([draws.visible, self.tokens - draws.visible], dim=1)

        x = torch.cat([self.embed_clean(past), self.with_mask_tokens(visible[:, None])[:, 0]], dim=1)
        past_angle = self.decoder.angles(0, draws.target).flatten(0, 1).expand(len(latents), -1, -1)
        angle = torch.cat([past_angle, self.decoder.angles_of(draws.order[:, None], draws.target)[:, 0]], dim=1)
        z = self.decoder(x, angle[:, None], frame_causal(draws.target + 1, self.tokens, x.device), *condition)
        z = z[:, -masked.shape[1] :]
        terms = self.head.losses(masked, z, draws.flow.noise, draws.flow.time)
        return Losses.weighted(terms, self.head.weights)
