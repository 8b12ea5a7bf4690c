"""What a video is about, beside its frames: nothing, a class or a text, all through one interface.

A condition is a sequence of vectors: the hidden states of a text, or a single vector with a one at its class. A vector
of zeros is no vector (texts differ in length); where there is none, the model sees a learned one in its place, so that
an empty text, a dropped one and none at all are the same.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from components.config import Config
from components.errors import InputError
from components.models.frame_by_frame import Proposal, require_context
from components.models.masked_decoder import MaskedDecoder
from components.models.video_transformer import Memory
from components.nn.blocks import initialise
from components.randomness import Stream

Drop = Annotated[float, Field(ge=0, lt=1)]  # chance that a clip's condition is left out of a training step


class LabelConfig(Config):
    """A class: one vector, a number for each class."""

    kind: Literal["label"]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    drop: Drop

    @property
    def tokens(self) -> int:
        """Vectors of a condition."""
        return 1

    @property
    def numbers(self) -> int:
        """Numbers of a vector."""
        return len(self.classes)


class TextConfig(Config):
    """A text: up to `tokens` hidden states of `numbers` numbers."""

    kind: Literal["text"]
    encoder: str  # a local folder, or a name that transformers knows, such as Qwen/Qwen2-1.5B (VideoMAR's)
    tokens: Annotated[int, Field(ge=1)]  # of a text; the rest is cut off (VideoMAR: 300)
    numbers: Annotated[int, Field(ge=1)]  # of its hidden states (Qwen2-1.5B: 1536)
    drop: Drop


ConditionConfig = LabelConfig | TextConfig
AnyCondition = Annotated[ConditionConfig, Field(discriminator="kind")]  # as a field of parameters


def asked(model: Config) -> ConditionConfig | None:
    """The condition of a kind of model; None where it has none, or knows of none."""
    condition: ConditionConfig | None = getattr(model, "condition", None)
    return condition


@dataclass(frozen=True, slots=True)
class Conditioned:
    """Clips and their conditions; sliced and moved as a tensor is."""

    latents: Float[Tensor, "b t c h w"]
    condition: Float[Tensor, "b l i"]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice) -> "Conditioned":
        return Conditioned(self.latents[rows], self.condition[rows])

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "Conditioned":
        """The same on another device."""
        latents, condition = (part.to(device, non_blocking=non_blocking) for part in (self.latents, self.condition))
        return Conditioned(latents, condition)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.latents.device


def apart(
    clips: Float[Tensor, "b t c h w"] | Conditioned, config: ConditionConfig | None
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b l i"] | None]:
    """Latents, and the conditions that a model of this config asks for. Raises InputError if it asks for others."""
    latents, given = (clips.latents, clips.condition) if isinstance(clips, Conditioned) else (clips, None)
    if (given is None) != (config is None):
        what = "has model.condition null, but the clips come with" if config is None else "asks for conditions, without"
        raise InputError(f"the model {what} captions or labels; make model.condition and the data set agree")
    if config is not None and given is not None and given.shape[1:] != (config.tokens, config.numbers):
        raise InputError(
            f"conditions are {given.shape[1]} vectors of {given.shape[2]} numbers, but model.condition says "
            f"{config.tokens} of {config.numbers}; set it to what the encoder gives"
        )
    return latents, given


def blank(model: Config, shape: tuple[int, ...]) -> Float[Tensor, "1 t c h w"] | Conditioned:
    """A clip of this shape, all zeros, as such a model takes it."""
    clip, config = torch.zeros(1, *shape), asked(model)
    return clip if config is None else Conditioned(clip, torch.zeros(1, config.tokens, config.numbers))


class Conditioner(nn.Module):
    """Conditions in the width of the model, and the learned sequence that stands for none."""

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(config.numbers, width)
        self.null = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        initialise(self)

    def forward(
        self, given: Float[Tensor, "b l i"], dropped: Bool[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """The sequence that blocks attend to."""
        present = given.any(dim=-1)
        if dropped is not None:
            present = present & ~dropped[:, None]
        return torch.where(present[..., None], self.embed(given), self.null)

    def nothing(self, batch: int) -> Float[Tensor, "b l d"]:
        """The sequence of clips without a condition."""
        return self.null.expand(batch, -1, -1)


class Given:
    """A model under a condition, as a sampler sees it: without the condition, and with it, each with its own memory.

    Guidance walks from one to the other: the sampler's first scale, `temporal_scale`, is that of the condition.
    """

    def __init__(self, model: MaskedDecoder, condition: Float[Tensor, "b l i"]) -> None:
        self.model, self.condition = model, condition
        self.group, self.tokens, self.numbers = model.group, model.tokens, model.numbers
        self.most_sets, self.guidable = model.most_sets, model.guidable

    def remember(
        self, frames: Float[Tensor, "b t c h w"], memory: tuple[Memory, Memory] | None
    ) -> tuple[Memory, Memory]:
        """Both memories with these finished frames in them. Raises InputError for a beginning without a frame."""
        require_context(frames, memory)
        nothing, given = memory or (self.model.nothing(len(self.condition)), self.model.begin(self.condition))
        return self.model.remember(frames, nothing), self.model.remember(frames, given)

    def propose(
        self, memory: tuple[Memory, Memory], stream: Stream, *, frame_noise: float, canvas_noise: float
    ) -> Proposal:
        """The two memories are the conditions, the poorer one first."""
        nothing = self.model.propose(memory[0], stream, frame_noise=frame_noise, canvas_noise=canvas_noise)
        return Proposal(memory, nothing.staticness)

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Memory, ...], count: int
    ) -> tuple[Any, ...]:
        """What the head needs of the next tokens, for each memory."""
        return self.model.embed(known, order, conditions, count)

    def velocity(
        self, x: Float[Tensor, "b k p"], time: float, embeddings: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "b k p"], ...]:
        """The velocity of the same tokens under each."""
        return self.model.velocity(x, time, embeddings)

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """The latent frame of these tokens."""
        return self.model.frame(x)
