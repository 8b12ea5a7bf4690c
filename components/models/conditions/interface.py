"""Conditions of a model other than the past frames: none, a class label, a text or actions.

The condition of a clip is a sequence of vectors. A text becomes the hidden states of its tokens, and a label becomes
one one-hot vector. In both, a zero vector marks an empty position (texts differ in length), and the model replaces it
by a learned vector. An empty text, a dropped text and no text are therefore the same condition. Actions become one
vector for each transition from a latent frame to the next. They are standardised, so a zero vector is the mean action
and is not replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count, Positive, Share
from components.models.layers.blocks import initialise

_MIN_RELATIVE_STD: Final = 1e-6  # a column whose std relative to its values is smaller counts as constant


class LabelConfig(Config):
    """Class labels: one one-hot vector with a channel for each class."""

    kind: Literal["label"]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]  # all labels
    drop: Share  # condition dropout: probability per clip and training step

    @property
    def tokens(self) -> int:
        """Number of vectors of a condition."""
        return 1

    @property
    def numbers(self) -> int:
        """Number of channels of a vector."""
        return len(self.classes)


class TextConfig(Config):
    """Captions: up to `tokens` hidden states of a text encoder, with `numbers` channels each."""

    kind: Literal["text"]
    encoder: str  # a local folder, or a model name for transformers, such as Qwen/Qwen2-1.5B (VideoMAR's)
    tokens: Count  # maximum length of a text; longer texts are truncated (VideoMAR: 300)
    numbers: Count  # channels of a hidden state (Qwen2-1.5B: 1536)
    drop: Share  # condition dropout: probability per clip and training step


class ActionConfig(Config):
    """Actions: one vector for each transition from a latent frame to the next."""

    kind: Literal["action"]
    numbers: Count  # channels of a vector: columns of the csv x pixel frames of a latent frame
    drop: Share  # condition dropout: probability per clip and training step


class ActionScale(Config):
    """Mean and standard deviation of each column of the actions over the training clips."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[Positive, ...]

    @classmethod
    def fit(cls, columns: Sequence[str], actions: Float[Tensor, "b f i"]) -> "ActionScale":
        """Compute the scale from actions. A constant column gets std 1, so that its standardised value is 0."""
        values = actions.double().flatten(0, 1)
        std = values.std(dim=0, correction=0)
        std = torch.where(std > _MIN_RELATIVE_STD * (1 + values.abs().amax(dim=0)), std, 1.0)
        return cls(columns=tuple(columns), mean=tuple(values.mean(dim=0).tolist()), std=tuple(std.tolist()))

    def standardise(self, actions: Float[Tensor, "b f i"]) -> Float[Tensor, "b f i"]:
        """Return (actions - mean) / std. Raises InputError if the number of columns differs."""
        if actions.shape[-1] != len(self.columns):
            raise InputError(
                f"actions have {actions.shape[-1]} columns, but the model was trained with {len(self.columns)} "
                f"({', '.join(self.columns)}); provide these columns"
            )
        mean, std = (torch.tensor(part, dtype=torch.float64) for part in (self.mean, self.std))
        return ((actions.double().cpu() - mean) / std).float()


CaptionConfig = LabelConfig | TextConfig
AnyCaption = Annotated[CaptionConfig, Field(discriminator="kind")]  # for config fields
ConditionConfig = CaptionConfig | ActionConfig


def condition_shape(config: ConditionConfig, frames: int) -> tuple[int, int]:
    """Return (vectors, channels of a vector) of the condition of a clip of `frames` latent frames."""
    return (frames - 1 if isinstance(config, ActionConfig) else config.tokens), config.numbers


def condition_of(model: Config) -> ConditionConfig | None:
    """Return the condition config of a model config; None if the model takes no condition."""
    condition: ConditionConfig | None = getattr(model, "condition", None)
    return condition


@dataclass(frozen=True, slots=True)
class ConditionedClips:
    """Clips with their conditions; supports len, slicing and `to`, as a tensor does."""

    latents: Float[Tensor, "b t c h w"]
    condition: Float[Tensor, "b l i"]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: slice) -> "ConditionedClips":
        return ConditionedClips(self.latents[rows], self.condition[rows])

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "ConditionedClips":
        """Return a copy on another device."""
        latents, condition = (part.to(device, non_blocking=non_blocking) for part in (self.latents, self.condition))
        return ConditionedClips(latents, condition)

    @property
    def device(self) -> torch.device:
        """Device of the latents and conditions."""
        return self.latents.device


def split_condition(
    clips: Float[Tensor, "b t c h w"] | ConditionedClips, config: ConditionConfig | None
) -> tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b l i"] | None]:
    """Split clips into latents and conditions; the condition is None if `config` is None.

    Raises InputError if the clips have conditions and the model takes none, or vice versa, or if the shape differs.
    """
    latents, condition = (clips.latents, clips.condition) if isinstance(clips, ConditionedClips) else (clips, None)
    if (condition is None) != (config is None):
        kind, clips_have = ("null", "have") if config is None else (f"of kind {config.kind}", "have no")
        raise InputError(
            f"model.condition is {kind}, but the clips {clips_have} captions, labels or actions; "
            "make model.condition and the data set agree"
        )
    if config is not None and condition is not None:
        vectors, channels = condition_shape(config, latents.shape[1])
        if condition.shape[1:] != (vectors, channels):
            raise InputError(
                f"the condition of a clip has {condition.shape[1]} vectors of {condition.shape[2]} channels, but "
                f"model.condition expects {vectors} vectors of {channels}; set its shape to that of the encoder"
            )
    return latents, condition


def zero_clip(model: Config, shape: tuple[int, ...]) -> Float[Tensor, "1 t c h w"] | ConditionedClips:
    """Return an all-zero clip of this shape, with an all-zero condition if the model takes one."""
    clip, config = torch.zeros(1, *shape), condition_of(model)
    return clip if config is None else ConditionedClips(clip, torch.zeros(1, *condition_shape(config, shape[0])))


class Conditioner(nn.Module):
    """Projection of conditions to the width of the model, and a learned sequence for the empty condition."""

    def __init__(self, config: CaptionConfig, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(config.numbers, width)
        self.null = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        initialise(self)

    def forward(
        self, condition: Float[Tensor, "b l i"], dropped: Bool[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """Return the sequence for cross-attention; the clips in `dropped` get the learned empty sequence."""
        present = condition.any(dim=-1)
        if dropped is not None:
            present = present & ~dropped[:, None]
        return torch.where(present[..., None], self.embed(condition), self.null)

    def empty(self, batch: int) -> Float[Tensor, "b l d"]:
        """Return the learned sequence of the empty condition for `batch` clips."""
        return self.null.expand(batch, -1, -1)


class ActionEmbedding(nn.Module):
    """Embedding of the actions between two latent frames, and a learned vector for unknown actions."""

    def __init__(self, config: ActionConfig, width: int) -> None:
        super().__init__()
        self.drop = config.drop
        self.mlp = nn.Sequential(nn.Linear(config.numbers, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, condition: Float[Tensor, "b l i"], dropped: Bool[Tensor, "b"]) -> Float[Tensor, "b l d"]:
        """Return the embedding of every transition; clips marked in `dropped` get the learned vector instead."""
        return torch.where(dropped[:, None, None], self.nothing, self.mlp(condition))

    def embed_transition(self, action: Float[Tensor, "b i"] | None, batch: int) -> Float[Tensor, "b d"]:
        """Return the embedding of one transition; None gives the learned vector for unknown actions."""
        return self.nothing.expand(batch, -1) if action is None else self.mlp(action)
