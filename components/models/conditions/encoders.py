"""Encoders of annotations: build the encoder that a model needs, and encode the annotations of a data set once."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.datasets import actions, captions, conditions, shards
from components.datasets.conditions import Annotation, ConditionKey, ConditionsManifest, Encoder, Labels
from components.datasets.latents import Latents
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, fingerprint, plain
from components.foundation.errors import InputError
from components.models.conditions.interface import ActionConfig, ActionScale, CaptionConfig, LabelConfig, condition_of
from components.models.conditions.text import TextEncoder, TextEncoderConfig
from components.nn.autoencoders import serialization as autoencoders
from components.nn.autoencoders.interface import Autoencoder, transitions


class ActionEncoder:
    """Standardises actions, and joins the actions between two latent frames to one vector."""

    def __init__(self, condition: ActionConfig, scale: ActionScale, autoencoder: Autoencoder) -> None:
        """Raises InputError if condition.numbers is not the number of values between two latent frames."""
        columns, stride = len(scale.columns), autoencoder.strides[0]
        if condition.numbers != columns * stride:
            raise InputError(
                f"model.condition.numbers is {condition.numbers}, but a latent frame of {stride} pixel "
                f"frames with {columns} action columns has {columns * stride} values; set it to {columns * stride}"
            )
        self.scale, self.autoencoder = scale, autoencoder

    @property
    def identity(self) -> str:
        """Encoder hash: depends on the columns, their mean and std, and the pixel frames of a latent frame."""
        stride = self.autoencoder.strides[0]
        frames = [[part.start, part.stop] for part in transitions(self.autoencoder, 3 * stride + 1)]
        return fingerprint({"scale": plain(self.scale), "frames": frames})

    def __call__(self, annotations: Float[Tensor, "b f i"]) -> Float[Tensor, "b l o"]:
        """Return a vector for each transition between latent frames: the standardised actions of its pixel frames.

        `annotations` are the actions of f pixel frames with i columns each; o is their product within a transition.
        Raises InputError if the number of columns is not that of the model, or if there are too few frames.
        """
        parts = transitions(self.autoencoder, annotations.shape[1])
        if not parts:
            raise InputError(
                f"the actions cover {annotations.shape[1]} frames, too few for a second latent frame; "
                f"give actions for at least {self.autoencoder.pixel_frames(2)} frames"
            )
        standardised = self.scale.standardise(annotations)
        return torch.stack([standardised[:, part.start : part.stop].flatten(1) for part in parts], dim=1)


def caption_encoder(condition: CaptionConfig, device: torch.device) -> Encoder:
    """Return the encoder of captions or labels.

    Raises InputError if the encoder cannot be loaded, or if its number of channels differs from the model's.
    """
    if isinstance(condition, LabelConfig):
        return Labels(condition.classes)
    encoder = TextEncoder(TextEncoderConfig(encoder=condition.encoder, tokens=condition.tokens), device)
    if encoder.channels != condition.numbers:
        raise InputError(
            f"{condition.encoder} gives {encoder.channels} channels per token, but model.condition.numbers is "
            f"{condition.numbers}; set it to {encoder.channels}"
        )
    return encoder


def scale_of(model: Config, latents: Path) -> ActionScale | None:
    """Return the mean and standard deviation of the training clips' actions; None for a model without actions.

    Raises InputError if the clips have no actions.
    """
    return _scale(_stored(latents)) if isinstance(condition_of(model), ActionConfig) else None


def _scale(stored: actions.Stored) -> ActionScale:
    return ActionScale.fit(stored.columns, stored.splits["train"])


def _stored(latents: Path) -> actions.Stored:
    stored = actions.of(latents, Latents.open(latents, "train", None).files)
    if stored is None:
        raise InputError(
            f"the model needs actions, but the clips of {latents} have none; "
            "set datasets.<name>.actions to a CSV file of actions, or model.condition to null"
        )
    return stored


def prepare(model: Config, latents: Path, autoencoder: Path, device: torch.device) -> Path | None:
    """Return the folder with the encoded conditions of these clips; None for a model without conditions.

    Encode the conditions if the cache does not have them. Raises InputError if the clips lack the annotations that the
    model needs, or if the encoder rejects an annotation.
    """
    condition = condition_of(model)
    if condition is None:
        return None
    annotations: dict[str, Any]
    encoder: Encoder
    files = Latents.open(latents, "train", None).files
    if isinstance(condition, ActionConfig):
        stored = _stored(latents)
        annotations, file = dict(stored.splits), actions.FILE
        encoder = ActionEncoder(condition, _scale(stored), autoencoders.load(autoencoder, torch.device("cpu")))
    else:
        encoder, texts, file = caption_encoder(condition, device), captions.of(latents, files), captions.FILE
        if texts is None:
            raise InputError(
                f"the model needs captions or labels, but the clips of {latents} have none; "
                "set datasets.<name>.words to a CSV file of captions or labels, or model.condition to null"
            )
        annotations = dict(texts)
    return _encode_all(annotations, encoder, ConditionKey(annotations=files[file], encoder=encoder.identity))


def _encode_all(annotations: dict[str, Annotation], encoder: Encoder, key: ConditionKey) -> Path:
    """Return the cached folder of these conditions; encode them if it is missing."""
    from components.telemetry.progress import meter

    def make(folder: Path) -> None:
        with meter("encode conditions", sum(map(len, annotations.values())), "clips") as progress:

            def metered(batch: Sequence[str] | Tensor) -> Tensor:
                vectors = encoder(batch)
                progress.advance(len(batch))
                return vectors

            conditions.write(folder, annotations, metered, key)

    is_complete = functools.partial(shards.whole, ConditionsManifest)
    return Cache.here().product("conditions", plain(key), code.fingerprint(__file__), is_complete, make)
