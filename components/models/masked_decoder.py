"""A decoder-only transformer over all frames that predicts the next one set by set: what VideoMAR and MAGI share.

The tokens of the frame under way, clean and masked together, go through all blocks and see the finished frames.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components import flow
from components.errors import InputError
from components.masking import MaskConfig
from components.models.flow_head import FlowHead, FlowHeadConfig
from components.models.frame_by_frame import FrameByFrame, FrameByFrameConfig, Proposal
from components.models.video_transformer import Memory
from components.nn.attention import KeysValues
from components.nn.blocks import PlainBlock
from components.randomness import Stream


class MaskedDecoderConfig(FrameByFrameConfig):
    """The transformer, the flow head and the law of the masks."""

    head: FlowHeadConfig
    mask: MaskConfig


@dataclass(frozen=True, slots=True)
class FlowDraws:
    """Times and noises of the flow loss."""

    time: Float[Tensor, "b k a"]
    noise: Float[Tensor, "b k a p"]

    @classmethod
    def of(cls, tokens: int, numbers: int, repeats: int, stream: Stream) -> "FlowDraws":
        """For so many tokens of so many numbers."""
        return cls(
            flow.logit_normal(stream.fork("time").normal(tokens, repeats)),
            stream.fork("noise").normal(tokens, repeats, numbers),
        )


@runtime_checkable
class MaskedDraws(Protocol):
    """What the draws of all its kinds hold."""

    @property
    def flow(self) -> FlowDraws:
        """Of the masked tokens."""
        ...


class MaskedDecoder(FrameByFrame):
    """p(next frame | frames so far), sampled set by set; how it is trained, its kinds say."""

    config: MaskedDecoderConfig

    def __init__(self, config: MaskedDecoderConfig, block: type[nn.Module] = PlainBlock) -> None:
        super().__init__(config, block)
        self.head = FlowHead(config.head, self.numbers, config.decoder.width)
        self.mask_token = nn.Parameter(torch.randn(config.decoder.width) * 0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of what is not decayed besides vectors: the flow head (MAR)."""
        return {f"head.{name}" for name, _ in self.head.named_parameters()}

    def supervised(self, draws: MaskedDraws) -> int:
        """Tokens whose prediction is learned in a step with these draws."""
        return math.prod(draws.flow.time.shape[:2])

    def begin(self, condition: Float[Tensor, "b l i"]) -> Memory:
        """The memory of videos under these conditions before their first frame. Raises InputError if it has none."""
        raise InputError("this model was trained without conditions; predict without a caption or label")

    def embed_clean(self, x: Float[Tensor, "*s p"]) -> Float[Tensor, "*s d"]:
        """Tokens of a finished frame."""
        return self.decoder.embed(x)

    def with_mask_tokens(self, visible: Float[Tensor, "b t v p"]) -> Float[Tensor, "b t n d"]:
        """The visible tokens of frames under way, then mask tokens for all others."""
        batch, frames, count = visible.shape[:3]
        masks = self.mask_token.expand(batch, frames, self.tokens - count, -1)
        return torch.cat([self.decoder.embed(visible), masks], dim=2)

    def read(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeysValues, ...]:
        """What the layers know once they have seen the next finished frame: one extra pass over it."""
        angle = self.decoder.angles(memory.frames, 1)[0]
        return self.decoder.extend(self.embed_clean(x), angle, memory, *memory.beside)[1]

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal:
        """The memory alone is the condition; the noises of Eq. 11 and 12 have nothing to act on."""
        constant = torch.ones(len(stream.samples), self.tokens, device=self.mask_token.device)
        return Proposal((memory,), constant)

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Memory, ...], count: int
    ) -> tuple[Float[Tensor, "b k o"], ...]:
        """What the head needs of the `count` tokens that follow the known ones in this order, for each condition."""
        embeddings = []
        for memory in conditions:
            angle = self.decoder.angles_of(order[:, None], memory.frames)
            z, _ = self.decoder.extend(self.with_mask_tokens(known[:, None])[:, 0], angle, memory, *memory.beside)
            embeddings.append(self.head.condition(z[:, known.shape[1] :][:, :count]))
        return tuple(embeddings)

    def velocity(
        self, x: Float[Tensor, "b k p"], time: float, embeddings: tuple[Float[Tensor, "b k o"], ...]
    ) -> tuple[Float[Tensor, "b k p"], ...]:
        """The velocity of the same tokens under each condition."""
        times = torch.full((1, 1), time, device=x.device)
        return tuple(self.head.velocity(x, times, embedding) for embedding in embeddings)
