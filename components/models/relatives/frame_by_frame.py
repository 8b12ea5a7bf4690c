"""Base class of the models that run one transformer over the tokens of all frames, with a cache of past frames."""

from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.models.layers.attention import KeyValueCache
from components.models.layers.blocks import PlainBlock
from components.models.layers.embeddings import patchify, unpatchify
from components.models.relatives.video_transformer import Memory, VideoTransformer, VideoTransformerConfig

F = TypeVar("F", bound="FrameByFrame")


class FrameByFrameConfig(Config):
    """Latent shape and transformer of a frame-by-frame model."""

    latent: tuple[Count, Count, Count]  # channels, height, width
    decoder: VideoTransformerConfig


@dataclass(frozen=True, slots=True)
class Proposal:
    """Conditions of the next frame before its first token; these models predict no canvas and no staticness."""

    conditions: tuple[Memory, ...]  # from poorest to richest
    staticness: Float[Tensor, "b n"]  # constant
    canvas: None = None
    static_scale: float = 1.0
    reference: None = None


class FrameByFrame(nn.Module):
    """Frame-causal transformer; one pass over each finished frame adds its keys and values to the cache."""

    def __init__(self, config: FrameByFrameConfig, block: type[nn.Module] = PlainBlock) -> None:
        super().__init__()
        config.decoder.check("model.decoder")
        self.config = config
        self.decoder = VideoTransformer(config.decoder, config.latent, block)

    @property
    def group(self) -> int:
        """Number of frames that are predicted together."""
        return 1

    @property
    def tokens(self) -> int:
        """Number of tokens of a frame."""
        return self.config.latent[1] * self.config.latent[2]

    @property
    def channels(self) -> int:
        """Number of channels of a token, which are the channels of the latents."""
        return self.config.latent[0]

    @property
    def most_sets(self) -> int:
        """Largest number of sets of a frame: one token per set."""
        return self.tokens

    @property
    def guidable(self) -> bool:
        """True: no weaker condition than an empty history exists, and guidance with it needs no condition dropout."""
        return True

    def on_grid(self: F, height: int, width: int) -> F:
        """Return a model for latents of another height and width, with shared weights.

        Raises InputError if the latents exceed the model's extent.
        """
        latent = (self.config.latent[0], height, width)
        other = type(self)(self.config.model_copy(update={"latent": latent}))
        other.load_state_dict(self.state_dict(), assign=True)
        return other.train(self.training)

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """Return the memory extended by these finished frames; None is the memory before the first frame.

        Raises InputError if there is neither a memory nor a frame.
        """
        require_context(frames, memory)
        memory = memory or self.empty_memory(len(frames))
        for frame in frames.unbind(1):
            memory = memory.append(self.extend_cache(patchify(frame, 1), memory))
        return memory

    def empty_memory(self, batch: int) -> Memory:
        """Return the memory of `batch` videos before their first frame, without a condition."""
        return self.decoder.initial_memory()

    def extend_cache(self, x: Float[Tensor, "b n p"], memory: Memory) -> tuple[KeyValueCache, ...]:
        """Return the cache of all layers, extended by the tokens of the next finished frame."""
        raise NotImplementedError

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """Return the latent frame of tokens in grid order."""
        return unpatchify(x, self.config.latent[1], 1)


def require_context(frames: Float[Tensor, "b t c h w"], memory: object | None) -> None:
    """Raise InputError if there is neither a memory nor a frame."""
    if memory is None and frames.shape[1] == 0:
        raise InputError("this model needs at least one latent frame of context; give one")


def require_frames(latents: Float[Tensor, "b t c h w"]) -> int:
    """Return the number of latent frames. Raises InputError if there are fewer than two."""
    if latents.shape[1] < 2:
        raise InputError("clips of one latent frame hold nothing to predict; cut longer clips")
    return latents.shape[1]
