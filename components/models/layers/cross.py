"""Cross-attention to a condition sequence, such as an encoded text, and a transformer block with cross-attention."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.models.layers.attention import Attention, KeyValueCache, attend, merge_heads
from components.models.layers.blocks import MLP_RATIO, ViTConfig
from components.nn.from_timm import mlp


class CrossAttention(nn.Module):
    """Multi-head cross-attention: queries from the tokens, keys and values from the condition; no position encoding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b k d"], condition: Float[Tensor, "b l d"]) -> Float[Tensor, "b k d"]:
        """Return the attention output of each token in `x` over the sequence `condition`."""
        queries = rearrange(self.query(x), "b k (e i) -> b e k i", e=self.heads)
        keys, values = rearrange(self.key_value(condition), "b l (a e i) -> a b e l i", a=2, e=self.heads).unbind(0)
        return self.project(merge_heads(attend(queries, keys, values)))


class CrossBlock(nn.Module):
    """Plain transformer block with cross-attention between self-attention and MLP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        if config.norm_first:
            raise InputError(
                "model.decoder.norm_first is not implemented for a model with captions or labels; set it to false"
            )
        self.attention = Attention(config.width, config.heads)
        self.cross = CrossAttention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm_cross = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeyValueCache | None,
        mask: Bool[Tensor, "k l"] | None,
        angle: Float[Tensor, "... k o"] | None,
        condition: Float[Tensor, "b _ d"],
    ) -> tuple[Float[Tensor, "b k d"], KeyValueCache]:
        """Apply the block to new tokens, which attend to the cached tokens, to one another and to `condition`.

        Returns the output of the new tokens and the extended cache; `condition` is an embedded sequence.
        """
        attended, memory = self.attention.extend(x, past, mask, angle)
        x = x + self.norm1(attended)
        x = x + self.norm_cross(self.cross(x, condition))
        return x + self.norm2(self.mlp(x)), memory
