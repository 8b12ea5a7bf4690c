"""Transformer over the tokens of all frames, with rotary positions in time and space and a key-value cache."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.models.layers import embeddings
from components.models.layers.attention import KeyValueCache
from components.models.layers.blocks import PlainBlock, ViTConfig, initialise


class VideoTransformerConfig(ViTConfig):
    """Size of the transformer, and the largest video for which it has positions."""

    extent: tuple[Count, Count, Count]  # most latent frames, rows and columns; may exceed those of the training clips

    def check(self, name: str) -> None:
        """Raise InputError if the heads do not divide the width, or are too small for rotary positions."""
        super().check(name)
        if self.width // self.heads < embeddings.SMALLEST:
            raise InputError(
                f"{name}: a head has {self.width // self.heads} channels, but rotary positions in time, rows and "
                f"columns need at least {embeddings.SMALLEST}; use fewer heads or a larger width"
            )


@dataclass(frozen=True, slots=True)
class Memory:
    """Immutable key-value cache of the finished frames; several continuations can start from the same memory."""

    frames: int  # number of finished frames since the start of the video
    layers: tuple[KeyValueCache | None, ...]  # cache of each layer; None before the first frame
    condition: Float[Tensor, "b l d"] | None = None  # embedded condition of the videos; None without a condition

    @property
    def block_arguments(self) -> tuple[Float[Tensor, "b l d"], ...]:
        """Further arguments of the blocks: the embedded condition, if any."""
        return () if self.condition is None else (self.condition,)

    @property
    def tokens(self) -> int:
        """Number of cached tokens."""
        return 0 if self.layers[0] is None else self.layers[0].keys.shape[2]

    def append(self, layers: tuple[KeyValueCache, ...]) -> "Memory":
        """Return the memory after one more frame, with the extended cache `layers`."""
        return Memory(self.frames + 1, layers, self.condition)


class VideoTransformer(nn.Module):
    """Stack of blocks that maps the tokens of past and current frames to z of the current tokens."""

    def __init__(
        self, config: VideoTransformerConfig, latent: tuple[int, int, int], block: type[nn.Module] = PlainBlock
    ) -> None:
        super().__init__()
        channels, *self.grid = latent
        for name, size, limit in zip(("rows", "columns"), self.grid, config.extent[1:], strict=True):
            if size > limit:
                raise InputError(
                    f"the latents have {size} {name}, but the model's positions reach {limit}; "
                    "enlarge model.decoder.extent, or use smaller frames"
                )
        self.config = config
        self.embed = nn.Linear(channels, config.width)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        initialise(self)

    def initial_memory(self, condition: Float[Tensor, "b l d"] | None = None) -> Memory:
        """Return the memory before the first frame, with an embedded condition or without one."""
        return Memory(0, (None,) * len(self.blocks), condition)

    def angles(self, first: int, frames: int) -> Float[Tensor, "t n o"]:
        """Return the rotary angles of `frames` frames from index `first` on, tokens in grid order.

        Raises InputError if a frame lies beyond the model's extent.
        """
        limit = self.config.extent[0]
        if first + frames > limit:
            raise InputError(
                f"the video has {first + frames} latent frames, but the model's positions reach {limit}; "
                "enlarge model.decoder.extent, or predict fewer frames"
            )
        positions = embeddings.grid(first, frames, self.grid[0], self.grid[1], self.embed.weight.device)
        return embeddings.angles(positions, self.config.width // self.config.heads)

    def angles_of(self, order: Int[Tensor, "b t n"], first: int) -> Float[Tensor, "b t n o"]:
        """Return the rotary angles of t frames from index `first` on, where the tokens of each frame are in `order`."""
        angle = self.angles(first, order.shape[1]).expand(order.shape[0], -1, -1, -1)
        return angle.gather(2, order[..., None].expand(-1, -1, -1, angle.shape[-1]))

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        angle: Float[Tensor, "... l o"],
        mask: Bool[Tensor, "l l"],
        *condition: Tensor,
    ) -> Float[Tensor, "b l d"]:
        """Return z of a whole sequence; `condition` holds the further arguments of the blocks."""
        for block in self.blocks:
            x, _ = block.extend(x, None, mask, angle, *condition)  # type: ignore[operator]
        return self.norm(x)

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        angle: Float[Tensor, "... k o"],
        memory: Memory,
        *condition: Tensor,
        mask: Bool[Tensor, "k l"] | None = None,
    ) -> tuple[Float[Tensor, "b k d"], tuple[KeyValueCache, ...]]:
        """Return z of new tokens, and the cache of all layers extended by them.

        New tokens attend to the cached tokens and to one another, except where `mask` is false. `condition` holds the
        further arguments of the blocks.
        """
        layers = []
        for block, past in zip(self.blocks, memory.layers, strict=True):
            x, cache = block.extend(x, past, mask, angle, *condition)  # type: ignore[operator]
            layers.append(cache)
        return self.norm(x), tuple(layers)
