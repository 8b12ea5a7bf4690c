"""A stack of blocks over the tokens of all frames, with rotary positions in time and space, and its memory."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.errors import InputError
from components.nn import rotary
from components.nn.attention import KeysValues
from components.nn.blocks import PlainBlock, ViTConfig, initialise


class VideoTransformerConfig(ViTConfig):
    """The stack, and how far its positions may reach, which may be farther than it is trained."""

    extent: tuple[int, int, int]  # latent frames, rows and columns

    def check(self, name: str) -> None:
        """Raises InputError if the heads do not divide the width, or are too small for three kinds of positions."""
        super().check(name)
        if self.width // self.heads < rotary.SMALLEST:
            raise InputError(
                f"{name}: {self.heads} heads of {self.width // self.heads} numbers are too small for positions in "
                f"time, rows and columns; a head needs at least {rotary.SMALLEST}, so use fewer heads"
            )


@dataclass(frozen=True, slots=True)
class Memory:
    """What every layer remembers of the finished frames: a value, good for as many continuations as one likes."""

    frames: int  # seen so far, an absolute count
    layers: tuple[KeysValues | None, ...]  # None before the first frame
    given: Float[Tensor, "b l d"] | None = None  # the condition that all of it is seen under, where there is one

    @property
    def beside(self) -> tuple[Float[Tensor, "b l d"], ...]:
        """What blocks take beside the tokens."""
        return () if self.given is None else (self.given,)

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return 0 if self.layers[0] is None else self.layers[0].keys.shape[2]

    def append(self, layers: tuple[KeysValues, ...]) -> "Memory":
        """The memory with one frame more."""
        return Memory(self.frames + 1, layers, self.given)


class VideoTransformer(nn.Module):
    """Tokens of past and present frames -> z of the present ones."""

    def __init__(
        self, config: VideoTransformerConfig, latent: tuple[int, int, int], block: type[nn.Module] = PlainBlock
    ) -> None:
        super().__init__()
        channels, *self.grid = latent
        for name, size, limit in zip(("rows", "columns"), self.grid, config.extent[1:], strict=True):
            if size > limit:
                raise InputError(
                    f"the latents have {size} {name}, but the model's positions reach {limit}; "
                    "enlarge extent, or use a smaller picture"
                )
        self.config = config
        self.embed = nn.Linear(channels, config.width)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        initialise(self)

    def begin(self, given: Float[Tensor, "b l d"] | None = None) -> Memory:
        """The memory of nothing, under a condition or none."""
        return Memory(0, (None,) * len(self.blocks), given)

    def angles(self, first: int, frames: int) -> Float[Tensor, "t n o"]:
        """Rotary positions of so many frames from number `first` on. Raises InputError beyond the model's extent."""
        limit = self.config.extent[0]
        if first + frames > limit:
            raise InputError(
                f"the video has {first + frames} latent frames, but the model's positions reach {limit}; "
                "enlarge extent, or ask for fewer frames"
            )
        places = rotary.grid(first, frames, self.grid[0], self.grid[1], self.embed.weight.device)
        return rotary.angles(places, self.config.width // self.config.heads)

    def angles_of(self, order: Int[Tensor, "b t n"], first: int) -> Float[Tensor, "b t n o"]:
        """The same where the tokens of each frame stand in this order."""
        angle = self.angles(first, order.shape[1]).expand(order.shape[0], -1, -1, -1)
        return angle.gather(2, order[..., None].expand(-1, -1, -1, angle.shape[-1]))

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        angle: Float[Tensor, "... l o"],
        mask: Bool[Tensor, "l l"],
        *condition: Tensor,
    ) -> Float[Tensor, "b l d"]:
        """z of a whole sequence; `condition` is what the blocks take beside it."""
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
    ) -> tuple[Float[Tensor, "b k d"], tuple[KeysValues, ...]]:
        """z of tokens that see the memory and one another, where no mask says less, and what the layers then know."""
        layers = []
        for block, past in zip(self.blocks, memory.layers, strict=True):
            x, seen = block.extend(x, past, mask, angle, *condition)  # type: ignore[operator]
            layers.append(seen)
        return self.norm(x), tuple(layers)
