"""Complete teacher forcing in the manner of MAGI: the clean clip stands in front of the masked clip.

All frames but the first are predicted in one pass, each from complete frames, as in sampling; only the masked copies
carry a loss. Clean frames are noised now and then, by a level that the model is told, so that it learns to live with
its own errors. Unlike MAGI's, attention is not split into space and time, and clips have one frame rate.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components import masking
from components.errors import InputError
from components.models.canvas_vit import blend
from components.models.frame_by_frame import require_frames
from components.models.masked_decoder import FlowDraws, MaskedDecoder, MaskedDecoderConfig
from components.models.spatial_mar import gather
from components.nn.attention import complete_forcing
from components.nn.embeddings import patchify
from components.nn.losses import Losses
from components.randomness import Stream


class MAGIConfig(MaskedDecoderConfig):
    """MAGI-like: the decoder of VideoMAR, trained by complete teacher forcing on noised histories."""

    kind: Literal["magi"]
    history_levels: int  # of noise on the clean frames, besides none at all; MAGI has 5
    history_noise: float  # strength r of the highest level, as in Eq. 11; the others are equal parts of it

    def build(self) -> "MAGI":
        """The model with fresh weights. Raises InputError if its parts do not fit one another."""
        if self.history_levels < 1 or not 0 <= self.history_noise <= 1:
            raise InputError(
                f"model.history_levels is {self.history_levels} and model.history_noise {self.history_noise}; "
                "use at least 1 level, and a strength between 0 and 1"
            )
        return MAGI(self)


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of one training step; every row is a frame that is predicted from those before it."""

    visible: int  # tokens that the model sees, in every row
    order: Int[Tensor, "b t n"]  # places of the visible tokens first
    flow: FlowDraws  # of the masked tokens of all rows, one after the other
    level: Int[Tensor, "b"]  # of the noise on the history; 0 is none
    noise: Float[Tensor, "b t n p"]


class MAGI(MaskedDecoder):
    """Sampled as VideoMAR is; the history that it is given then has level 0."""

    config: MAGIConfig

    def __init__(self, config: MAGIConfig) -> None:
        super().__init__(config)
        self.level = nn.Embedding(config.history_levels + 1, config.decoder.width)
        nn.init.normal_(self.level.weight, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """The flow head, and the levels of noise."""
        return super().no_weight_decay() | {"level.weight"}

    def embed_clean(self, x: Float[Tensor, "*s p"]) -> Float[Tensor, "*s d"]:
        """Tokens of a finished frame, without noise."""
        return self.decoder.embed(x) + self.level.weight[0]

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream) -> Draws:
        """Masks, noises, flow times and levels of history; one mask ratio for all rows."""
        rows = require_frames(latents) - 1
        visible = masking.visible_count(self.tokens, self.config.mask, stream.fork("ratio").shared())
        masked = rows * (self.tokens - visible)
        return Draws(
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(rows, self.tokens)),
            flow=FlowDraws.of(masked, self.numbers, self.config.head.repeats, stream),
            level=(stream.fork("level").uniform() * (self.config.history_levels + 1)).long(),
            noise=stream.fork("history").normal(rows, self.tokens, self.numbers),
        )

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """The flow loss of the masked tokens of every frame but the first."""
        tokens, rows = patchify(latents, 1), latents.shape[1] - 1
        strength = draws.level / self.config.history_levels * self.config.history_noise
        history = blend(tokens[:, :-1], draws.noise, strength)
        clean = self.decoder.embed(history) + self.level(draws.level)[:, None, None]
        ordered = gather(tokens[:, 1:].flatten(0, 1), draws.order.flatten(0, 1)).unflatten(0, (-1, rows))
        visible, masked = ordered.split([draws.visible, self.tokens - draws.visible], dim=2)

        x = torch.cat([clean, self.with_mask_tokens(visible)], dim=1).flatten(1, 2)
        behind = self.decoder.angles(0, rows).expand(len(latents), -1, -1, -1)
        angle = torch.cat([behind, self.decoder.angles_of(draws.order, 1)], dim=1).flatten(1, 2)
        z = self.decoder(x, angle[:, None], complete_forcing(rows, self.tokens, x.device))
        z = z.unflatten(1, (2 * rows, self.tokens))[:, rows:, draws.visible :].flatten(1, 2)
        loss = self.head.loss(masked.flatten(1, 2), z, draws.flow.noise, draws.flow.time)
        return Losses.weighted({"flow": loss}, {"flow": 1.0})
