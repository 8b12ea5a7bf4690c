"""Predict pixel frames from pixel frames with a trained model and its VAE."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from components.datasets.annotations import NONE, Annotations
from components.datasets.conditions import Encoder
from components.datasets.latents import restore, standardise
from components.foundation import checkpoint
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.metrics.calibration import Canvases
from components.models import serialization as models
from components.models.conditions import encoders
from components.models.conditions.interface import ActionConfig, condition_of
from components.models.conditions.predictors import ActionConditioned, CaptionConditioned
from components.models.serialization import ModelDescription
from components.nn.autoencoders import serialization as autoencoders
from components.nn.autoencoders.coding import Coder
from components.nn.autoencoders.interface import shortest
from components.nn.autoencoders.kinds import VAE
from components.sampling.frame import SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted clips with their context, and the canvas, staticness and order of the t generated latent frames."""

    clips: UInt8[Tensor, "b f c h w"]
    canvas: UInt8[Tensor, "b f c h w"] | None  # the context, then the decoded canvases
    staticness: Float[Tensor, "b t _ _"]
    order: Int[Tensor, "b t _ _"]


class Predictor:
    """A video model with its VAE: encodes a context, samples the next latents, and decodes them."""

    def __init__(self, vae: VAE, model: FramePredictor, description: ModelDescription, device: torch.device) -> None:
        self.vae, self.model, self.description, self.device = vae, model, description, device
        self.coder = Coder(vae, device)
        self.mean = torch.tensor(description.mean, device=device)
        self.std = torch.tensor(description.std, device=device)

    @classmethod
    def load(cls, model: Path, autoencoder: Path, device: torch.device) -> "Predictor":
        """Load the model and the VAE in these folders. Raises InputError if the model was trained with another VAE."""
        module, description = models.load(model, device)
        identity = checkpoint.identity(autoencoder)
        if description.autoencoder != identity:
            raise InputError(
                f"the model in {model} was trained on latents of the VAE {description.autoencoder}, "
                f"but {autoencoder} holds {identity}; run `dvc repro` to train it again"
            )
        return cls(autoencoders.load(autoencoder, device), module, description, device)

    @functools.cached_property
    def encoder(self) -> Encoder | None:
        """Encoder of the conditions; None without conditions. Raises InputError if it is not that of training."""
        condition = condition_of(self.description.model)
        if condition is None:
            return None
        encoder: Encoder
        if isinstance(condition, ActionConfig):
            assert self.description.actions is not None
            encoder = encoders.ActionEncoder(condition, self.description.actions, self.vae)
        else:
            encoder = encoders.caption_encoder(condition, self.device)
        if encoder.identity != self.description.encoder:
            raise InputError(
                f"the model was trained with the encoder {self.description.encoder}, but the encoder of that name is "
                f"now {encoder.identity}; restore the original encoder, or run `dvc repro` to train again"
            )
        return encoder

    def conditioned_on(self, annotations: Annotations) -> FramePredictor:
        """Return the model conditioned on the clips' annotations; the plain model if none of them applies to it.

        Raises InputError for an unknown label, for actions with other columns, and for missing actions if the model was
        trained with condition.drop 0.
        """
        condition = condition_of(self.description.model)
        if isinstance(condition, ActionConfig):
            values: Any = annotations.actions
            if values is None and not condition.drop:
                raise InputError(
                    "the model needs actions, because it was trained with condition.drop 0; "
                    "give the actions of the frames"
                )
        else:
            values = annotations.words
        if values is None or self.encoder is None:
            return self.model
        return conditioned(self.model, self.description.model, self.encoder(values).to(self.device))

    def latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of the shortest clip with at least `frames` pixel frames."""
        return self.vae.latent_frames(shortest(self.vae, frames))

    def extend_actions(self, annotations: Annotations, frames: int) -> Annotations:
        """Repeat the last action, so that the actions cover all latent frames of a clip of `frames` pixel frames.

        Sampling whole latent frames and groups may need more pixel frames than requested. Raises InputError if there
        are fewer actions than the requested frames need.
        """
        if annotations.actions is None or not isinstance(condition_of(self.description.model), ActionConfig):
            return annotations
        available = annotations.actions.shape[1]
        needed = shortest(self.vae, frames) + (self.model.group - 1) * self.vae.strides[0]
        if available < frames - 1:
            raise InputError(
                f"there are actions for {available} frames, but {frames} frames of context and prediction need "
                f"actions for the first {frames - 1} of them; give more actions or predict fewer frames"
            )
        padding = annotations.actions[:, -1:].expand(-1, max(0, needed - available), -1)
        return dataclasses.replace(annotations, actions=torch.cat([annotations.actions, padding], dim=1))

    @torch.no_grad()
    def encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b t _ _ _"]:
        """Return the standardised posterior means of clips."""
        parts = [moments.chunk(2, dim=2)[0] for moments in self.coder.encode(clips)]
        return standardise(torch.cat(parts), self.mean, self.std)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b t c h w"]) -> UInt8[Tensor, "b f _ _ _"]:
        """Return the pixels of standardised latents."""
        return torch.cat(list(self.coder.decode(restore(latents, self.mean, self.std))))

    def reconstruct(self, clips: UInt8[Tensor, "b f c h w"]) -> UInt8[Tensor, "b f c h w"]:
        """Encode and decode clips: the upper bound on the quality of any prediction on these latents."""
        parts = clips.split(self.coder.batch_size(clips.shape))
        return torch.cat([self.decode(self.encode(part)) for part in parts])

    def predict(
        self,
        context: UInt8[Tensor, "b f c h w"],
        frames: int,
        stream: Stream,
        sampler: SamplerConfig,
        annotations: Annotations = NONE,
    ) -> Prediction:
        """Predict `frames` pixel frames after the context, conditioned on the annotations of the clips."""
        length = context.shape[1] + frames
        model = self.conditioned_on(self.extend_actions(annotations, length))
        latents = self.encode(context)
        sampled = list(rollout(model, latents, self.latent_frames(length) - latents.shape[1], stream, sampler))
        clips = self.decode(torch.cat([latents, *(frame.latent[:, None] for frame in sampled)], dim=1))[:, :length]
        canvases = [frame.canvas for frame in sampled if frame.canvas is not None]
        canvas = None
        if canvases:
            canvas = self.decode(torch.cat([latents, torch.stack(canvases, dim=1)], dim=1))[:, :length]
        grid = latents.shape[-2:]
        staticness, order = (
            torch.stack([getattr(frame, name) for frame in sampled], dim=1).unflatten(-1, grid).cpu()
            for name in ("staticness", "order")
        )
        return Prediction(clips, canvas, staticness, order)

    @torch.no_grad()
    def canvases(
        self,
        clips: UInt8[Tensor, "b f c h w"],
        context: int,
        stream: Stream,
        sampler: SamplerConfig,
        annotations: Annotations = NONE,
    ) -> Canvases | None:
        """Compare the canvas of every frame after the context with the truth; None for a model without a canvas.

        Each canvas is predicted from the true frames before it.
        """
        model = self.conditioned_on(self.extend_actions(annotations, clips.shape[1]))
        latents = self.encode(clips)
        start, group, scale = self.vae.latent_frames(context), model.group, 0.0
        memory = model.remember(latents[:, :start], None)
        staticness, errors = [], []
        for index in range(start, latents.shape[1] - group + 1, group):
            truth = latents[:, index : index + group]
            proposal_stream = stream.fork("frame", index - start).fork("proposal")
            proposal = model.propose(
                memory, proposal_stream, frame_noise=sampler.frame_noise, canvas_noise=sampler.canvas_noise
            )
            if proposal.canvas is None:
                return None
            scale = proposal.static_scale
            staticness.append(proposal.staticness.unflatten(0, (-1, group)).cpu())
            canvas = proposal.canvas.unflatten(0, (-1, group))
            errors.append((canvas - truth).square().sum(dim=2).flatten(2).cpu())
            memory = model.remember(truth, memory)
        return Canvases(torch.cat(staticness, dim=1), torch.cat(errors, dim=1), latents.shape[2], scale)


def conditioned(model: Any, config: Config, condition: Float[Tensor, "b l i"]) -> FramePredictor:
    """Return the frame predictor that samples from a model under this condition."""
    if isinstance(condition_of(config), ActionConfig):
        return ActionConditioned(model, condition)
    return CaptionConditioned(model, condition)
