"""Known tokens, z_t and mask tokens -> z, the embedding of each token that is still to come (section 4.1)."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.errors import InputError
from components.nn.attention import Attention
from components.nn.blocks import BLOCKS, BlockKind, MMDiTBlock, ViTConfig, initialise
from components.nn.embeddings import grid_position

GROUP_EVERY = 4  # blocks from one attention between the frames of a group to the next


class SpatialConfig(ViTConfig):
    """The Spatial ViT; its first `encoder_depth` blocks see only z_t and the visible tokens."""

    encoder_depth: int
    block: BlockKind


def gather(tokens: Float[Tensor, "b n d"], index: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens at these places."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class GroupAttention(nn.Module):
    """Each place of the grid attends to itself in the frames that are predicted together (appendix B).

    It adds nothing before it is trained, so that a model of groups begins as the model of single frames.
    """

    def __init__(self, width: int, heads: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.frame = nn.Parameter(torch.randn(group, width) * 0.02)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """The rows of a group follow one another; tokens are in the order of the grid."""
        places = rearrange(x, "(b g) n d -> (b n) g d", g=self.group)
        added = self.norm(self.attention(places + self.frame))
        return x + rearrange(added, "(b n) g d -> (b g) n d", n=x.shape[1])


class SpatialMAR(nn.Module):
    """A masked autoencoder over the tokens of one frame, with z_t as a prefix.

    The sequence is [z_t | visible tokens | mask tokens]: positions are added to the tokens, so nothing has to be put
    back into the order of the grid.
    """

    position: Float[Tensor, "n d"]

    def __init__(self, config: SpatialConfig, latent: tuple[int, int, int], group: int) -> None:
        super().__init__()
        channels, height, width = latent
        if not 0 <= config.encoder_depth <= config.layers:
            raise InputError(
                f"spatial: encoder_depth {config.encoder_depth} must lie between 0 and its {config.layers} layers"
            )
        self.encoder_depth = config.encoder_depth
        self.embed = nn.Linear(channels, config.width)
        self.blocks = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.layers))
        every = (*range(GROUP_EVERY, config.layers, GROUP_EVERY), config.layers)
        joined = [after for after in every if group > 1 and after >= config.encoder_depth]  # all tokens are there
        self.group_attention = nn.ModuleDict(
            {str(after): GroupAttention(config.width, config.heads, group) for after in joined}
        )
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("position", grid_position(height, width, config.width), persistent=False)
        initialise(self)
        if config.block == "mm_dit":
            self._freeze_idle()

    def _freeze_idle(self) -> None:
        """Weights that are counted but never used: several workers would wait for their gradients in vain."""
        blocks = [block for block in self.blocks if isinstance(block, MMDiTBlock)]
        for block in blocks[: self.encoder_depth]:  # the encoder sees no mask tokens
            block.masked.requires_grad_(False)
        if self.group_attention:
            return
        last = blocks[-1].clean  # nobody reads what the last block makes of condition and clean tokens
        for part in (last.attention.project, last.mlp, last.norm1, last.norm2):
            part.requires_grad_(False)

    def forward(
        self,
        visible: Float[Tensor, "b v p"],
        order: Int[Tensor, "b n"],
        mask_tokens: Float[Tensor, "b n d"],
        z_t: Float[Tensor, "b m d"],
    ) -> Float[Tensor, "b k d"]:
        """z of the k = n - v tokens that are not visible.

        `order` lists the places of the grid, those of the visible tokens first and in their order; `mask_tokens` stand
        at their places in the grid; z comes in the order of the last k entries.
        """
        count, prefix = visible.shape[1], z_t.shape[1]
        known = self.embed(visible) + self.position[order[:, :count]]
        x = torch.cat([z_t, known], dim=1)
        for block in self.blocks[: self.encoder_depth]:
            x = block(x, (prefix, count, 0))
        x = torch.cat([x, gather(mask_tokens + self.position, order[:, count:])], dim=1)
        x = self._mix(x, self.encoder_depth, order)
        for depth, block in enumerate(self.blocks[self.encoder_depth :], self.encoder_depth + 1):
            x = self._mix(block(x, (prefix, count, x.shape[1] - prefix - count)), depth, order)
        return self.norm(x[:, prefix + count :])

    def _mix(self, x: Float[Tensor, "b l d"], depth: int, order: Int[Tensor, "b n"]) -> Float[Tensor, "b l d"]:
        """The frames of a group attend to one another, if this is a depth where they do."""
        if str(depth) not in self.group_attention:
            return x
        prefix, tokens = x.split([x.shape[1] - order.shape[1], order.shape[1]], dim=1)
        grid = self.group_attention[str(depth)](gather(tokens, order.argsort(dim=1)))
        return torch.cat([prefix, gather(grid, order)], dim=1)
