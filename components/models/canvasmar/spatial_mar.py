"""Spatial MAR: z, the embedding of each masked token, from visible tokens, z_t and mask tokens (section 4.1)."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.settings.ranges import Whole
from components.models.layers.attention import Attention
from components.models.layers.blocks import BLOCKS, BlockKind, LocalConvolution, MMDiTBlock, ViTConfig, initialise
from components.models.layers.embeddings import grid_position

GROUP_EVERY = 4  # number of blocks between two layers of attention across the frames of a group


class SpatialConfig(ViTConfig):
    """Size of the Spatial MAR, and the kind of its blocks."""

    encoder_depth: Whole  # number of leading blocks, which process only z_t and the visible tokens
    block: BlockKind
    local: bool  # depthwise 3x3 convolution over the grid before each later block; the paper has none


def gather(tokens: Float[Tensor, "b n d"], index: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Return the tokens at the given grid indices."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class GroupAttention(nn.Module):
    """Attention across the frames of a group, between tokens at the same grid position (appendix B).

    Its output is zero before training, so that a group model can start from the weights of a single-frame model.
    """

    def __init__(self, width: int, heads: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.frame = nn.Parameter(torch.randn(group, width) * 0.02)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """Return x plus the attention output; the frames of a group are adjacent rows, tokens are in grid order."""
        positions = rearrange(x, "(b g) n d -> (b n) g d", g=self.group)
        attended = self.norm(self.attention(positions + self.frame))
        return x + rearrange(attended, "(b n) g d -> (b g) n d", n=x.shape[1])


class SpatialMAR(nn.Module):
    """Masked autoencoder over the tokens of one frame, with z_t as a prefix.

    The sequence is [z_t | visible tokens | mask tokens]. Position embeddings are added to the tokens, so the sequence
    need not be in grid order.
    """

    position: Float[Tensor, "n d"]

    def __init__(
        self, config: SpatialConfig, latent: tuple[int, int, int], group: int, input_channels: int | None = None
    ) -> None:
        """Build the network; `input_channels` are those of a visible token (default: latent channels).

        Raises InputError if encoder_depth exceeds the number of layers.
        """
        super().__init__()
        channels, height, width = latent
        if config.encoder_depth > config.layers:
            raise InputError(
                f"model.spatial.encoder_depth is {config.encoder_depth}; "
                f"it must be between 0 and model.spatial.layers, which is {config.layers}"
            )
        self.encoder_depth = config.encoder_depth
        self.embed = nn.Linear(input_channels or channels, config.width)
        num_local = config.layers - config.encoder_depth if config.local else 0
        self.local = nn.ModuleList(LocalConvolution(config.width, (height, width)) for _ in range(num_local))
        self.blocks = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.layers))
        depths = (*range(GROUP_EVERY, config.layers, GROUP_EVERY), config.layers)
        group_depths = [
            after for after in depths if group > 1 and after >= config.encoder_depth
        ]  # after the mask tokens join
        self.group_attention = nn.ModuleDict(
            {str(after): GroupAttention(config.width, config.heads, group) for after in group_depths}
        )
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("position", grid_position(height, width, config.width), persistent=False)
        initialise(self)
        if config.block == "mm_dit":
            self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freeze weights that never get a gradient, because distributed training would wait for their gradients."""
        blocks = [block for block in self.blocks if isinstance(block, MMDiTBlock)]
        for block in blocks[: self.encoder_depth]:  # the encoder blocks process no mask tokens
            block.masked.requires_grad_(False)
        if self.group_attention:
            return
        last = blocks[-1].clean  # the last block's outputs for condition and clean tokens are not used
        for part in (last.attention.project, last.mlp, last.norm1, last.norm2):
            part.requires_grad_(False)

    def forward(
        self,
        visible: Float[Tensor, "b v p"],
        order: Int[Tensor, "b n"],
        mask_tokens: Float[Tensor, "b n d"],
        z_t: Float[Tensor, "b m d"],
    ) -> Float[Tensor, "b k d"]:
        """Return z of the k = n - v tokens that are not visible, in the order of the last k entries of `order`.

        `order` lists all grid indices, first those of the v visible tokens in the order of `visible`. `mask_tokens`
        are in grid order.
        """
        count, prefix = visible.shape[1], z_t.shape[1]
        known = self.embed(visible) + self.position[order[:, :count]]
        x = torch.cat([z_t, known], dim=1)
        for block in self.blocks[: self.encoder_depth]:
            x = block(x, (prefix, count, 0))
        x = torch.cat([x, gather(mask_tokens + self.position, order[:, count:])], dim=1)
        x = self._attend_across_group(x, self.encoder_depth, order)
        for depth, block in enumerate(self.blocks[self.encoder_depth :], self.encoder_depth + 1):
            x = self._convolve_locally(x, depth, order)
            alone = depth == len(self.blocks) and not self.group_attention  # nothing reads the other tokens any more
            x = block(x, (prefix, count, x.shape[1] - prefix - count), first=prefix + count if alone else 0)
            x = self._attend_across_group(x, depth, order)
        return self.norm(x[:, x.shape[1] + count - order.shape[1] :])

    def _convolve_locally(
        self, x: Float[Tensor, "b l d"], depth: int, order: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b l d"]:
        """Return the sequence after the local convolution of the block at this depth; unchanged without `local`."""
        if not self.local:
            return x
        prefix, tokens = x.split([x.shape[1] - order.shape[1], order.shape[1]], dim=1)
        grid = self.local[depth - self.encoder_depth - 1](gather(tokens, order.argsort(dim=1)))
        return torch.cat([prefix, gather(grid, order)], dim=1)

    def _attend_across_group(
        self, x: Float[Tensor, "b l d"], depth: int, order: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b l d"]:
        """Return the sequence after the group attention at this depth; unchanged if there is none at this depth."""
        if str(depth) not in self.group_attention:
            return x
        prefix, tokens = x.split([x.shape[1] - order.shape[1], order.shape[1]], dim=1)
        grid = self.group_attention[str(depth)](gather(tokens, order.argsort(dim=1)))
        return torch.cat([prefix, gather(grid, order)], dim=1)
