"""Attention to a sequence that stands beside the tokens, such as a text, and a block that has it."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.nn.attention import Attention, KeysValues, attend, merge
from components.nn.blocks import MLP_RATIO, ViTConfig
from components.nn.from_timm import mlp


class CrossAttention(nn.Module):
    """Queries of the tokens, keys and values of the sequence beside them; it has no positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b k d"], given: Float[Tensor, "b l d"]) -> Float[Tensor, "b k d"]:
        """Every token attends to all of the sequence."""
        queries = rearrange(self.query(x), "b k (e i) -> b e k i", e=self.heads)
        keys, values = rearrange(self.key_value(given), "b l (a e i) -> a b e l i", a=2, e=self.heads).unbind(0)
        return self.project(merge(attend(queries, keys, values)))


class CrossBlock(nn.Module):
    """A plain block that attends to the sequence beside it between its attention and its MLP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.cross = CrossAttention(config.width, config.heads)
        self.mlp = mlp(config.width, MLP_RATIO * config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm_cross = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeysValues | None,
        mask: Bool[Tensor, "k l"] | None,
        angle: Float[Tensor, "... k o"] | None,
        given: Float[Tensor, "b _ d"],
    ) -> tuple[Float[Tensor, "b k d"], KeysValues]:
        """The block for new tokens that see the past, one another and `given`, and the memory with them in it."""
        attended, memory = self.attention.extend(x, past, mask, angle)
        x = x + self.norm1(attended)
        x = x + self.norm_cross(self.cross(x, given))
        return x + self.norm2(self.mlp(x)), memory
