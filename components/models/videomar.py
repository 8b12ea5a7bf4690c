"""VideoMAR (arXiv 2506.14168): a decoder-only transformer, trained by the next-frame diffusion loss.

Frames before t are clean, frame t is partly masked, and the loss is on its masked tokens alone; frames after t could
not be seen, and are left out. Our flow head takes the place of the paper's DDPM head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components import masking
from components.models.conditions import AnyCondition, Conditioned, Conditioner, apart
from components.models.frame_by_frame import require_frames
from components.models.masked_decoder import FlowDraws, MaskedDecoder, MaskedDecoderConfig
from components.models.spatial_mar import gather
from components.models.video_transformer import Memory
from components.nn.attention import frame_causal
from components.nn.blocks import PlainBlock
from components.nn.cross import CrossBlock
from components.nn.embeddings import patchify
from components.nn.losses import Losses
from components.randomness import Stream


class VideoMARConfig(MaskedDecoderConfig):
    """VideoMAR; the paper's condition is a text of 300 hidden states of Qwen2-1.5B, dropped one time in ten."""

    kind: Literal["videomar"]
    condition: AnyCondition | None

    def build(self) -> "VideoMAR":
        """The model with fresh weights. Raises InputError if its parts do not fit one another."""
        return VideoMAR(self)


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of one training step."""

    target: int  # the frame that is predicted, the same for every clip and on every worker
    visible: int  # tokens of it that the model sees
    order: Int[Tensor, "b n"]  # places of the visible tokens first
    flow: FlowDraws
    dropped: Bool[Tensor, "b"]  # clips whose condition is left out


class VideoMAR(MaskedDecoder):
    """Frame-causal attention, clean and mask tokens through all blocks together."""

    config: VideoMARConfig

    def __init__(self, config: VideoMARConfig) -> None:
        super().__init__(config, PlainBlock if config.condition is None else CrossBlock)
        self.condition = None if config.condition is None else Conditioner(config.condition, config.decoder.width)

    @property
    def guidable(self) -> bool:
        """Whether conditions were dropped in training, where there are any."""
        return self.config.condition is None or self.config.condition.drop > 0

    def begin(self, condition: Float[Tensor, "b l i"]) -> Memory:
        """The memory of videos under these conditions before their first frame. Raises InputError if it has none."""
        if self.condition is None:
            return super().begin(condition)
        return self.decoder.begin(self.condition(condition))

    def nothing(self, batch: int) -> Memory:
        """The memory of so many videos before their first frame, without any condition."""
        return self.decoder.begin(None if self.condition is None else self.condition.nothing(batch))

    def draw(self, clips: Float[Tensor, "b t c h w"] | Conditioned, stream: Stream) -> Draws:
        """The target t, uniform over all frames but the first; its mask, noises, flow times and dropped conditions."""
        asked = self.config.condition
        frames = require_frames(apart(clips, asked)[0])
        target = int(torch.randint(1, frames, (), generator=stream.fork("target").shared()))
        visible = masking.visible_count(self.tokens, self.config.mask, stream.fork("ratio").shared())
        return Draws(
            target=target,
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(self.tokens)),
            flow=FlowDraws.of(self.tokens - visible, self.numbers, self.config.head.repeats, stream),
            dropped=stream.fork("condition").uniform() < (0.0 if asked is None else asked.drop),
        )

    def forward(self, clips: Float[Tensor, "b t c h w"] | Conditioned, draws: Draws) -> Losses:
        """The next-frame diffusion loss."""
        latents, given = apart(clips, self.config.condition)
        beside = () if self.condition is None or given is None else (self.condition(given, draws.dropped),)
        past = patchify(latents[:, : draws.target], 1).flatten(1, 2)
        current = gather(patchify(latents[:, draws.target], 1), draws.order)
        visible, masked = current.split([draws.visible, self.tokens - draws.visible], dim=1)

        x = torch.cat([self.embed_clean(past), self.with_mask_tokens(visible[:, None])[:, 0]], dim=1)
        behind = self.decoder.angles(0, draws.target).flatten(0, 1).expand(len(latents), -1, -1)
        angle = torch.cat([behind, self.decoder.angles_of(draws.order[:, None], draws.target)[:, 0]], dim=1)
        z = self.decoder(x, angle[:, None], frame_causal(draws.target + 1, self.tokens, x.device), *beside)
        z = z[:, -masked.shape[1] :]
        return Losses.weighted({"flow": self.head.loss(masked, z, draws.flow.noise, draws.flow.time)}, {"flow": 1.0})
