"""Transformer blocks behind one signature: plain, with expert LayerNorms, and MM-DiT.

All add LayerNorm(sublayer(x)) to the residual stream: the normalisation stands after the sublayer, inside the residual,
as in NOVA. A sequence is laid out in three segments: condition tokens, clean tokens, mask tokens. As positions are
added to the tokens their order within the sequence is free, and so each kind of token is a slice.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.config import Config
from components.errors import InputError
from components.nn.attention import Attention, KeysValues, attend, merge
from components.nn.from_timm import mlp

Segments = tuple[int, int, int]  # numbers of condition, clean and mask tokens
MLP_RATIO = 4


class ViTConfig(Config):
    """Size of a stack of blocks."""

    width: int
    heads: int
    layers: int

    def check(self, name: str) -> None:
        """Raises InputError if the heads do not divide the width, or positions do not fit into it."""
        if self.width % (4 * self.heads):
            raise InputError(
                f"{name}: width {self.width} is not a multiple of 4 x {self.heads} heads; change one of the two"
            )


class PlainBlock(nn.Module):
    """One stream, one set of weights for all tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(
        self, x: Float[Tensor, "b l d"], segments: Segments, mask: Bool[Tensor, "l l"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """One block; the kinds of tokens make no difference here."""
        x = x + self.norm1(self.attention(x, mask))
        return x + self.norm2(self.mlp(x))

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeysValues | None,
        mask: Bool[Tensor, "k l"] | None = None,
        angle: Float[Tensor, "... k o"] | None = None,
    ) -> tuple[Float[Tensor, "b k d"], KeysValues]:
        """The block for new tokens that see the past and one another, and the memory with them in it."""
        attended, memory = self.attention.extend(x, past, mask, angle)
        x = x + self.norm1(attended)
        return x + self.norm2(self.mlp(x)), memory


class ExpertNorm(nn.Module):
    """LayerNorm with its own scale and shift for each of the three kinds of tokens (section 5.1, after CogVideoX)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, width))
        self.bias = nn.Parameter(torch.zeros(3, width))

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments) -> Float[Tensor, "b l d"]:
        """The normalisation is shared, the affine map is each kind's own."""
        parts = x.split(segments, dim=1)
        return torch.cat(
            [F.layer_norm(part, part.shape[-1:], self.weight[i], self.bias[i]) for i, part in enumerate(parts)], dim=1
        )


class ExpertNormBlock(nn.Module):
    """Shared attention and MLP, LayerNorms by kind of token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = ExpertNorm(config.width)
        self.norm2 = ExpertNorm(config.width)

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments) -> Float[Tensor, "b l d"]:
        """One block over condition, clean and mask tokens."""
        x = x + self.norm1(self.attention(x), segments)
        return x + self.norm2(self.mlp(x), segments)


class MMDiTBlock(nn.Module):
    """Two streams with their own weights, condition and clean tokens, and mask tokens; one joint attention."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.clean = PlainBlock(config)
        self.masked = PlainBlock(config)

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments) -> Float[Tensor, "b l d"]:
        """Both streams attend to all tokens; a stream without tokens costs nothing."""
        lengths = (segments[0] + segments[1], segments[2])
        both = zip((self.clean, self.masked), x.split(lengths, dim=1), strict=True)
        streams = [(block, part) for block, part in both if part.shape[1]]
        heads = [block.attention.heads_of(block.attention.qkv(part)) for block, part in streams]
        queries, keys, values = (torch.cat(each, dim=2) for each in zip(*heads, strict=True))
        attended = merge(attend(queries, keys, values))
        parts = []
        joints = attended.split([part.shape[1] for _, part in streams], dim=1)
        for (block, part), joint in zip(streams, joints, strict=True):
            part = part + block.norm1(block.attention.project(joint))
            parts.append(part + block.norm2(block.mlp(part)))
        return torch.cat(parts, dim=1)


BlockKind = Literal["plain", "expert_norm", "mm_dit"]
BLOCKS = {"plain": PlainBlock, "expert_norm": ExpertNormBlock, "mm_dit": MMDiTBlock}


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer below this module (MAR)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
