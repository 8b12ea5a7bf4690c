"""A trained model with its VAE: pixels in, pixels out."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from components import checkpoint
from components.autoencoders import trained as autoencoders
from components.autoencoders.coding import Coder
from components.autoencoders.interface import shortest
from components.autoencoders.kinds import VAE
from components.data.conditions import Encoder
from components.data.latents import restore, standardise
from components.errors import InputError
from components.metrics.calibration import Canvases
from components.models import trained as models
from components.models.conditions import Given
from components.models.masked_decoder import MaskedDecoder
from components.models.trained import Trained
from components.randomness import Stream
from components.sampling.frame import SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from pipeline import conditioning


@dataclass(frozen=True, slots=True)
class Prediction:
    """Continued clips, context included, and what led to them; t counts the latent frames that were generated."""

    clips: UInt8[Tensor, "b f c h w"]
    canvas: UInt8[Tensor, "b f c h w"] | None  # context as it is, then each canvas decoded
    staticness: Float[Tensor, "b t h w"]
    order: Int[Tensor, "b t h w"]


class Predictor:
    """Encodes a context, rolls latents out, decodes them."""

    def __init__(self, vae: VAE, model: FramePredictor, trained: Trained, device: torch.device) -> None:
        self.vae, self.model, self.trained, self.device = vae, model, trained, device
        self.coder = Coder(vae, device)
        self.mean = torch.tensor(trained.mean, device=device)
        self.std = torch.tensor(trained.std, device=device)

    @classmethod
    def load(cls, model: Path, autoencoder: Path, device: torch.device) -> "Predictor":
        """The model and the VAE in these folders. Raises InputError if they do not belong together."""
        module, trained = models.load(model, device)
        identity = checkpoint.identity(autoencoder)
        if trained.autoencoder != identity:
            raise InputError(
                f"the model in {model} was trained on latents of the VAE {trained.autoencoder}, "
                f"but {autoencoder} holds {identity}; run `dvc repro` to train it again"
            )
        return cls(autoencoders.load(autoencoder, device), module, trained, device)

    @functools.cached_property
    def encoder(self) -> Encoder | None:
        """What the model's conditions are made by; None for a model without. Raises InputError if it is another now."""
        encoder = conditioning.encoder_of(self.trained.model, self.device)
        if encoder is not None and encoder.identity != self.trained.encoder:
            raise InputError(
                f"the model was trained with the encoder {self.trained.encoder}, but its name stands for "
                f"{encoder.identity} now; put the old one back, or run `dvc repro` to train the model again"
            )
        return encoder

    def under(self, words: Sequence[str] | None) -> FramePredictor:
        """The model under these captions or labels, one a clip; as it is for None, and where it asks for none.

        Raises InputError for a label that it does not know.
        """
        if words is None or self.encoder is None:
            return self.model
        assert isinstance(self.model, MaskedDecoder)
        return Given(self.model, self.encoder(words).to(self.device))

    @torch.no_grad()
    def encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b t c h w"]:
        """Standardised latents, the means of the posterior."""
        parts = [moments.chunk(2, dim=2)[0] for moments in self.coder.encode(clips)]
        return standardise(torch.cat(parts), self.mean, self.std)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b t c h w"]) -> UInt8[Tensor, "b f c h w"]:
        """Pixels of standardised latents."""
        return torch.cat(list(self.coder.decode(restore(latents, self.mean, self.std))))

    def reconstruct(self, clips: UInt8[Tensor, "b f c h w"]) -> UInt8[Tensor, "b f c h w"]:
        """What the VAE alone makes of clips: the best that any prediction can look."""
        parts = clips.split(self.coder.clips_at_once(clips.shape))
        return torch.cat([self.decode(self.encode(part)) for part in parts])

    def predict(
        self,
        context: UInt8[Tensor, "b f c h w"],
        frames: int,
        stream: Stream,
        sampler: SamplerConfig,
        words: Sequence[str] | None = None,
    ) -> Prediction:
        """The context and so many pixel frames after it; `words` are the clips' captions or labels."""
        given = context.shape[1]
        latents = self.encode(context)
        total = self.vae.latent_frames(shortest(self.vae, given + frames))
        sampled = list(rollout(self.under(words), latents, total - latents.shape[1], stream, sampler))
        clips = self.decode(torch.cat([latents, *(frame.latent[:, None] for frame in sampled)], dim=1))[
            :, : given + frames
        ]
        canvases = [frame.canvas for frame in sampled if frame.canvas is not None]
        canvas = None
        if canvases:
            canvas = self.decode(torch.cat([latents, torch.stack(canvases, dim=1)], dim=1))[:, : given + frames]
        grid = latents.shape[-2:]
        staticness, order = (
            torch.stack([getattr(frame, name) for frame in sampled], dim=1).unflatten(-1, grid).cpu()
            for name in ("staticness", "order")
        )
        return Prediction(clips, canvas, staticness, order)

    @torch.no_grad()
    def canvases(
        self, clips: UInt8[Tensor, "b f c h w"], given: int, stream: Stream, sampler: SamplerConfig
    ) -> Canvases | None:
        """The canvas of every frame after the given ones, each from the true frames before it; None without."""
        latents = self.encode(clips)
        start, group, scale = self.vae.latent_frames(given), self.model.group, 0.0
        memory = self.model.remember(latents[:, :start], None)
        staticness, errors = [], []
        for index in range(start, latents.shape[1] - group + 1, group):
            truth = latents[:, index : index + group]
            chance = stream.fork("frame", index - start).fork("proposal")
            proposal = self.model.propose(
                memory, chance, frame_noise=sampler.frame_noise, canvas_noise=sampler.canvas_noise
            )
            if proposal.canvas is None:
                return None
            scale = proposal.static_scale
            staticness.append(proposal.staticness.unflatten(0, (-1, group)).cpu())
            canvas = proposal.canvas.unflatten(0, (-1, group))
            errors.append((canvas - truth).square().sum(dim=2).flatten(2).cpu())
            memory = self.model.remember(truth, memory)
        return Canvases(torch.cat(staticness, dim=1), torch.cat(errors, dim=1), latents.shape[2], scale)

    def batches(
        self,
        context: UInt8[Tensor, "b f c h w"],
        frames: int,
        seed: int,
        sampler: SamplerConfig,
        batch: int,
        words: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predictions for many contexts, a batch at a time; a clip's chance does not depend on its batch."""
        for start in range(0, len(context), batch):
            part = context[start : start + batch]
            stream = Stream.of(seed, range(start, start + len(part)), self.device)
            yield self.predict(part, frames, stream, sampler, words and words[start : start + batch])
