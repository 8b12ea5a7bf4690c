"""Base class of VideoMAR and MAGI: a decoder-only transformer that predicts the next frame set by set.

All blocks process the visible and mask tokens of the current frame together, and these attend to the finished frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models import flow, masking
from components.models.flow_head import FlowHead, FlowHeadConfig, VelocityField
from components.models.layers.attention import KeyValueCache
from components.models.layers.blocks import PlainBlock
from components.models.masking import MaskConfig
from components.models.relatives.frame_by_frame import FrameByFrame, FrameByFrameConfig, Proposal
from components.models.relatives.video_transformer import Memory


class MaskedDecoderConfig(FrameByFrameConfig):
    """Transformer, flow head and mask ratio of a masked decoder."""

    head: FlowHeadConfig
    mask: MaskConfig


@dataclass(frozen=True, slots=True)
class FlowDraws:
    """Flow times and noise of the flow loss."""

    time: Float[Tensor, "b k a"]
    noise: Float[Tensor, "b k a p"]

    @classmethod
    def draw(cls, tokens: int, channels: int, repeats: int, stream: Stream) -> "FlowDraws":
        """Draw flow times and noise for `tokens` masked tokens per sample, with `channels` channels each."""
        return cls(
            flow.logit_normal(stream.fork("time").normal(tokens, repeats)),
            stream.fork("noise").normal(tokens, repeats, channels),
        )


@runtime_checkable
class MaskedDraws(Protocol):
    """Random draws that all masked decoders have in common."""

    @property
    def flow(self) -> FlowDraws:
        """Flow times and noise of the masked tokens."""
        ...


class MaskedDecoder(FrameByFrame):
    """p(next frame | past frames), sampled set by set; subclasses define the training."""

    config: MaskedDecoderConfig

    def __init__(self, config: MaskedDecoderConfig, block: type[nn.Module] = PlainBlock) -> None:
        super().__init__(config, block)
        self.head = FlowHead(config.head, self.channels, config.decoder.width)
        self.mask_token = nn.Parameter(torch.randn(config.decoder.width) * 0.02)

    @property
    def visible_grid(self) -> tuple[int, ...]:
        """Numbers of visible tokens used in validation."""
        return masking.visible_grid(self.tokens)

    def visible(self, stream: Stream) -> int:
        """Draw the number of visible tokens of a training step, the same for all samples and workers."""
        return masking.visible_count(self.tokens, self.config.mask, stream.fork("ratio").shared())

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, besides vectors, that are exempt from weight decay: the flow head (MAR)."""
        return {f"head.{name}" for name, _ in self.head.named_parameters()}

    def supervised_tokens(self, draws: MaskedDraws) -> int:
        """Return the number of tokens with a loss in a training step with these draws."""
        return math.prod(draws.flow.time.shape[:2])

    def initial_memory(self, condition: Float[Tensor, "b l i"]) -> Memory:
        """Return the memory of videos with these conditions before their first frame.

        Raises InputError if the model takes no conditions.
        """
        raise InputError("this model was trained without conditions; predict without a caption or label")

    def embed_clean(self, x: Float[Tensor, "*s p"]) -> Float[Tensor, "*s d"]:
        """Embed the tokens of finished frames."""
        return self.decoder.embed(x)

    def with_mask_tokens(self, visible: Float[Tensor, "b t v p"]) -> Float[Tensor, "b t n d"]:
        """Embed the visible tokens of each frame, and append mask tokens for the other n - v tokens."""
        batch, frames, count = visible.shape[:3]
        masks = self.mask_token.expand(batch, frames, self.tokens - count, -1)
        return torch.cat([self.decoder.embed(visible), masks], dim=2)

    def extend_cache(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeyValueCache, ...]:
        """Return the cache of all layers, extended by the tokens of the next finished frame."""
        angle = self.decoder.angles(memory.frames, 1)[0]
        return self.decoder.extend(self.embed_clean(x), angle, memory, *memory.block_arguments)[1]

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal:
        """Return the memory as the only condition; the noise strengths of Eq. 11 and 12 are not used."""
        constant = torch.ones(len(stream.samples), self.tokens, device=self.mask_token.device)
        return Proposal((memory,), constant)

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Memory, ...], count: int
    ) -> tuple[Float[Tensor, "b k o"], ...]:
        """Return the head's embeddings of the `count` tokens after the known tokens in `order`, for each condition."""
        embeddings = []
        for memory in conditions:
            angle = self.decoder.angles_of(order[:, None], memory.frames)
            z, _ = self.decoder.extend(
                self.with_mask_tokens(known[:, None])[:, 0], angle, memory, *memory.block_arguments
            )
            embeddings.append(self.head.condition(z[:, known.shape[1] :][:, :count]))
        return tuple(embeddings)

    def velocity_field(self, embeddings: tuple[Float[Tensor, "b k o"], ...], times: Sequence[float]) -> VelocityField:
        """Return the velocity of tokens under each condition as a function of tokens and flow time."""
        return self.head.velocity_field(embeddings, times)
