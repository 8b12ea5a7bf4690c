"""VideoMAR (arXiv 2506.14168): a decoder-only transformer, trained by the next-frame diffusion loss.

Frames before t are clean, frame t is partly masked, and the loss is on its masked tokens alone; frames after t could
not be seen, and are left out. Our flow head takes the place of the paper's DDPM head.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components import masking
from components.models.frame_by_frame import require_frames
from components.models.masked_decoder import FlowDraws, MaskedDecoder, MaskedDecoderConfig
from components.models.spatial_mar import gather
from components.nn.attention import frame_causal
from components.nn.embeddings import patchify
from components.nn.losses import Losses
from components.randomness import Stream


class VideoMARConfig(MaskedDecoderConfig):
    """VideoMAR without a condition."""

    kind: Literal["videomar"]

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


class VideoMAR(MaskedDecoder):
    """Frame-causal attention, clean and mask tokens through all blocks together."""

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream) -> Draws:
        """The target t, uniform over all frames but the first; its mask, noises and flow times."""
        frames = require_frames(latents)
        target = int(torch.randint(1, frames, (), generator=stream.fork("target").shared()))
        visible = masking.visible_count(self.tokens, self.config.mask, stream.fork("ratio").shared())
        return Draws(
            target=target,
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(self.tokens)),
            flow=FlowDraws.of(self.tokens - visible, self.numbers, self.config.head.repeats, stream),
        )

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """The next-frame diffusion loss."""
        past = patchify(latents[:, : draws.target], 1).flatten(1, 2)
        current = gather(patchify(latents[:, draws.target], 1), draws.order)
        visible, masked = current.split([draws.visible, self.tokens - draws.visible], dim=1)

        x = torch.cat([self.embed_clean(past), self.with_mask_tokens(visible[:, None])[:, 0]], dim=1)
        behind = self.decoder.angles(0, draws.target).flatten(0, 1).expand(len(latents), -1, -1)
        angle = torch.cat([behind, self.decoder.angles_of(draws.order[:, None], draws.target)[:, 0]], dim=1)
        z = self.decoder(x, angle[:, None], frame_causal(draws.target + 1, self.tokens, x.device))
        z = z[:, -masked.shape[1] :]
        return Losses.weighted({"flow": self.head.loss(masked, z, draws.flow.noise, draws.flow.time)}, {"flow": 1.0})
