"""Transformer blocks with one signature: plain, with expert LayerNorms, and MM-DiT.

NOVA adds LayerNorm(sublayer(x)) to the residual stream; `norm_first` adds sublayer(LayerNorm(x)) instead, as in ViT. A
sequence has three segments: condition tokens, clean tokens and mask tokens. Position embeddings are added to the
tokens, so the tokens may be in any order, and each kind of token can be one slice of the sequence.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.models.layers.attention import Attention, KeyValueCache, attend, merge_heads
from components.nn.from_timm import mlp

Segments = tuple[int, int, int]  # numbers of condition, clean and mask tokens
MLP_RATIO = 4


def without(segments: Segments, first: int) -> Segments:
    """Return the segments of the sequence without its first tokens."""
    condition, clean, masked = segments
    ends = (condition, condition + clean, condition + clean + masked)
    lengths = [max(end, first) - max(begin, first) for begin, end in pairwise((0, *ends))]
    return lengths[0], lengths[1], lengths[2]


class ViTConfig(Config):
    """Size of a stack of blocks."""

    width: Count  # channels of a token
    heads: Count  # attention heads
    layers: Count  # blocks
    norm_first: bool  # LayerNorm before each sublayer (pre-norm); NOVA applies it after, inside the residual branch

    def check(self, name: str) -> None:
        """Raise InputError if the width is not a multiple of 4 x heads, or `mm_dit` is combined with `norm_first`."""
        if self.norm_first and getattr(self, "block", "plain") == "mm_dit":
            raise InputError(
                f"{name}.norm_first is not implemented for block mm_dit; set it to false, or choose another block"
            )
        if self.width % (4 * self.heads):
            raise InputError(
                f"{name}: width {self.width} is not a multiple of 4 x {self.heads} heads; change width or heads"
            )


class PlainBlock(nn.Module):
    """Transformer block whose weights are shared by all tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = Attention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(
        self, x: Float[Tensor, "b l d"], segments: Segments, mask: Bool[Tensor, "k l"] | None = None, first: int = 0
    ) -> Float[Tensor, "b k d"]:
        """Apply the block to a whole sequence and return its tokens from `first` on.

        `segments` is ignored, because all tokens share the weights.
        """
        if self.norm_first:
            x = x[:, first:] + self.attention(self.norm1(x), mask, first)
            return x + self.mlp(self.norm2(x))
        x = x[:, first:] + self.norm1(self.attention(x, mask, first))
        return x + self.norm2(self.mlp(x))

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeyValueCache | None,
        mask: Bool[Tensor, "k l"] | None = None,
        angle: Float[Tensor, "... k o"] | None = None,
    ) -> tuple[Float[Tensor, "b k d"], KeyValueCache]:
        """Apply the block to new tokens, which attend to the cached tokens and to one another.

        Returns the output of the new tokens and the extended cache; see `Attention.extend` for the arguments.
        """
        attended, memory = self.attention.extend(self.norm1(x) if self.norm_first else x, past, mask, angle)
        if self.norm_first:
            x = x + attended
            return x + self.mlp(self.norm2(x)), memory
        x = x + self.norm1(attended)
        return x + self.norm2(self.mlp(x)), memory


class ExpertNorm(nn.Module):
    """LayerNorm with its own scale and shift for each of the three kinds of tokens (section 5.1, after CogVideoX)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, width))
        self.bias = nn.Parameter(torch.zeros(3, width))

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments) -> Float[Tensor, "b l d"]:
        """Normalise each token, then apply the scale and shift of its kind."""
        parts = x.split(segments, dim=1)
        return torch.cat(
            [F.layer_norm(part, part.shape[-1:], self.weight[i], self.bias[i]) for i, part in enumerate(parts)], dim=1
        )


class ExpertNormBlock(nn.Module):
    """Transformer block with shared attention and MLP, and separate LayerNorms for each kind of token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = Attention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = ExpertNorm(config.width)
        self.norm2 = ExpertNorm(config.width)

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments, *, first: int = 0) -> Float[Tensor, "b k d"]:
        """Apply the block to condition, clean and mask tokens and return the tokens from `first` on."""
        rest = without(segments, first)
        if self.norm_first:
            x = x[:, first:] + self.attention(self.norm1(x, segments), first=first)
            return x + self.mlp(self.norm2(x, rest))
        x = x[:, first:] + self.norm1(self.attention(x, first=first), rest)
        return x + self.norm2(self.mlp(x), rest)


class MMDiTBlock(nn.Module):
    """MM-DiT block: joint attention, but mask tokens have other weights than condition and clean tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.clean = PlainBlock(config)
        self.masked = PlainBlock(config)

    def forward(self, x: Float[Tensor, "b l d"], segments: Segments, *, first: int = 0) -> Float[Tensor, "b k d"]:
        """Apply the block, in which all tokens attend to all, and return the tokens from `first` on."""
        lengths = (segments[0] + segments[1], segments[2])
        streams = zip((self.clean, self.masked), x.split(lengths, dim=1), strict=True)
        heads = [block.attention.split_heads(block.attention.qkv(part)) for block, part in streams if part.shape[1]]
        queries, keys, values = (torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))
        attended = merge_heads(attend(queries[:, :, first:], keys, values))
        clean, _, masked = without((lengths[0], 0, lengths[1]), first)
        outputs = zip(x[:, first:].split((clean, masked), dim=1), attended.split((clean, masked), dim=1), strict=True)
        parts = []
        for block, (part, output) in zip((self.clean, self.masked), outputs, strict=True):
            if part.shape[1]:  # weights of a stream without tokens get no gradient
                part = part + block.norm1(block.attention.project(output))
                parts.append(part + block.norm2(block.mlp(part)))
        return torch.cat(parts, dim=1)


class LocalConvolution(nn.Module):
    """x + a depthwise 3x3 convolution over the grid (conditional positional encoding, CPVT, arXiv 2102.10882).

    Attention with additive positions needs thousands of training steps to learn which tokens are neighbours. The
    convolution uses the neighbours from the first step.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """Return x + conv(x) for all tokens of a frame, which must be in row-major order."""
        grid = x.transpose(1, 2).unflatten(2, self.grid)
        return x + self.conv(grid).flatten(2).transpose(1, 2)


BlockKind = Literal["plain", "expert_norm", "mm_dit"]
BLOCKS = {"plain": PlainBlock, "expert_norm": ExpertNormBlock, "mm_dit": MMDiTBlock}


def initialise(module: nn.Module) -> None:
    """Initialise every linear layer of this module with Xavier-uniform weights and zero biases (MAR)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
