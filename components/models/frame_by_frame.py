"""What all models share that run one transformer over the tokens of all frames: memory of frames, and grids."""

from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from components.config import Config
from components.errors import InputError
from components.models.video_transformer import Memory, VideoTransformer, VideoTransformerConfig
from components.nn.attention import KeysValues
from components.nn.blocks import PlainBlock
from components.nn.embeddings import patchify, unpatchify

F = TypeVar("F", bound="FrameByFrame")


class FrameByFrameConfig(Config):
    """The transformer, and the latents that it is for."""

    latent: tuple[int, int, int]  # channels, height, width
    decoder: VideoTransformerConfig


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next frame before its first token: memories from poorest to richest; of staticness nothing is known."""

    conditions: tuple[Memory, ...]
    staticness: Float[Tensor, "b n"]
    canvas: None = None
    static_scale: float = 1.0


class FrameByFrame(nn.Module):
    """A stack of blocks that is causal from frame to frame; finished frames are cached, each by one pass over it."""

    def __init__(self, config: FrameByFrameConfig, block: type[nn.Module] = PlainBlock) -> None:
        super().__init__()
        config.decoder.check("model.decoder")
        self.config = config
        self.decoder = VideoTransformer(config.decoder, config.latent, block)

    @property
    def group(self) -> int:
        """Frames that are predicted together."""
        return 1

    @property
    def tokens(self) -> int:
        """Tokens of a frame."""
        return self.config.latent[1] * self.config.latent[2]

    @property
    def numbers(self) -> int:
        """Numbers of a token: the channels of the latents."""
        return self.config.latent[0]

    @property
    def most_sets(self) -> int:
        """A set for each token."""
        return self.tokens

    @property
    def guidable(self) -> bool:
        """Where there is a poorer condition at all, training has seen it: the first frame of every clip."""
        return True

    def on_grid(self: F, height: int, width: int) -> F:
        """The same model, its weights shared, for latents of another size. Raises InputError beyond its extent."""
        latent = (self.config.latent[0], height, width)
        other = type(self)(self.config.model_copy(update={"latent": latent}))
        other.load_state_dict(self.state_dict(), assign=True)
        return other.train(self.training)

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """The memory with these finished frames in it. Raises InputError for a beginning without a frame."""
        require_context(frames, memory)
        memory = memory or self.nothing(len(frames))
        for frame in frames.unbind(1):
            memory = memory.append(self.read(patchify(frame, 1), memory))
        return memory

    def nothing(self, batch: int) -> Memory:
        """The memory of so many videos before their first frame, without any condition."""
        return self.decoder.begin()

    def read(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeysValues, ...]:
        """What the layers know once they have seen the next finished frame."""
        raise NotImplementedError

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """The latent frame of these tokens, given in the order of the grid."""
        return unpatchify(x, self.config.latent[1], 1)


def require_context(frames: Float[Tensor, "b t c h w"], memory: object | None) -> None:
    """Raises InputError for a beginning without a frame."""
    if memory is None and frames.shape[1] == 0:
        raise InputError("this model needs at least one latent frame of context; give one")


def require_frames(latents: Float[Tensor, "b t c h w"]) -> int:
    """How many frames there are. Raises InputError if there is none to predict from another."""
    if latents.shape[1] < 2:
        raise InputError("clips of one latent frame hold nothing to predict; cut longer clips")
    return latents.shape[1]
