"""Complete teacher forcing similar to MAGI: the training sequence is the clean clip, then the masked clip.

One pass predicts all frames but the first, each from complete past frames, as in sampling. Only masked frames have a
loss. Some clips get noise on their clean frames, and its level conditions the model, so that the model learns to
tolerate its own errors. Unlike in MAGI, attention is not split into space and time, and there is one frame rate.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.foundation.randomness import Stream
from components.foundation.settings.ranges import Count, Fraction
from components.models import masking
from components.models.canvasmar.canvas_vit import blend
from components.models.canvasmar.spatial_mar import gather
from components.models.layers.attention import complete_teacher_forcing
from components.models.layers.embeddings import patchify
from components.models.relatives.frame_by_frame import require_frames
from components.models.relatives.masked_decoder import FlowDraws, MaskedDecoder, MaskedDecoderConfig
from components.nn.losses import Losses


class MAGIConfig(MaskedDecoderConfig):
    """MAGI-like model: the decoder of VideoMAR, trained by complete teacher forcing on noised histories."""

    kind: Literal["magi"]
    history_levels: Count  # noise levels of the clean frames in training, besides level 0 without noise; MAGI has 5
    history_noise: Fraction  # strength r of the highest level, as in Eq. 11; the levels are equally spaced

    def build(self) -> "MAGI":
        """Build the model with newly initialised weights. Raises InputError if parts of the config do not fit."""
        return MAGI(self)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws of one training step; every row is a frame that is predicted from the frames before it."""

    visible: int  # number of visible tokens, the same in every row
    order: Int[Tensor, "b t n"]  # grid indices of the tokens, visible tokens first
    flow: FlowDraws  # for the masked tokens of all rows of a clip, row after row
    level: Int[Tensor, "b"]  # noise level of the history; 0 is no noise
    noise: Float[Tensor, "b t n p"]  # noise of the history


class MAGI(MaskedDecoder):
    """MAGI-like model; sampling is that of VideoMAR, with a history of noise level 0."""

    config: MAGIConfig

    def __init__(self, config: MAGIConfig) -> None:
        super().__init__(config)
        self.level = nn.Embedding(config.history_levels + 1, config.decoder.width)
        nn.init.normal_(self.level.weight, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, besides vectors, that are exempt from weight decay: flow head, level embedding."""
        return super().no_weight_decay() | {"level.weight"}

    def embed_clean(self, x: Float[Tensor, "*s p"]) -> Float[Tensor, "*s d"]:
        """Embed the tokens of finished frames, at noise level 0."""
        return self.decoder.embed(x) + self.level.weight[0]

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream, visible: int | None = None) -> Draws:
        """Draw masks, noise, flow times and history noise levels; all rows have the same number of visible tokens.

        Raises InputError if a clip has fewer than two latent frames.
        """
        rows = require_frames(latents) - 1
        visible = self.visible(stream) if visible is None else visible
        masked = rows * (self.tokens - visible)
        return Draws(
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(rows, self.tokens)),
            flow=FlowDraws.draw(masked, self.channels, self.config.head.repeats, stream),
            level=(stream.fork("level").uniform() * (self.config.history_levels + 1)).long(),
            noise=stream.fork("history").normal(rows, self.tokens, self.channels),
        )

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """Return the flow loss of the masked tokens of all frames but the first."""
        tokens, rows = patchify(latents, 1), latents.shape[1] - 1
        strength = draws.level / self.config.history_levels * self.config.history_noise
        history = blend(tokens[:, :-1], draws.noise, strength)
        clean = self.decoder.embed(history) + self.level(draws.level)[:, None, None]
        ordered = gather(tokens[:, 1:].flatten(0, 1), draws.order.flatten(0, 1)).unflatten(0, (-1, rows))
        visible, masked = ordered.split([draws.visible, self.tokens - draws.visible], dim=2)

        x = torch.cat([clean, self.with_mask_tokens(visible)], dim=1).flatten(1, 2)
        past_angle = self.decoder.angles(0, rows).expand(len(latents), -1, -1, -1)
        angle = torch.cat([past_angle, self.decoder.angles_of(draws.order, 1)], dim=1).flatten(1, 2)
        z = self.decoder(x, angle[:, None], complete_teacher_forcing(rows, self.tokens, x.device))
        z = z.unflatten(1, (2 * rows, self.tokens))[:, rows:, draws.visible :].flatten(1, 2)
        terms = self.head.losses(masked.flatten(1, 2), z, draws.flow.noise, draws.flow.time)
        return Losses.weighted(terms, self.head.weights)
