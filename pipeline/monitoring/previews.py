"""Previews: predictions of a video model for a few validation clips during training, logged to its MLflow run."""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.datasets.latents import Latents, restore, standardise
from components.foundation.randomness import Stream
from components.nn.autoencoders import serialization as autoencoders
from components.nn.autoencoders.coding import Coder
from components.sampling.frame import SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.predictor import conditioned
from components.sampling.rollout import rollout
from components.telemetry.tracking import Run
from components.video import video

CLIPS: Final = 2  # validation clips in a preview
FPS: Final = 8
FOLDER: Final = "validation"  # in the run's artifacts
KEY: Final = "reconstruction above prediction"
# not the sampler of a row, because a change of that would train the model again; without guidance, because guided
# predictions of a model early in training are poor
SAMPLER: Final = SamplerConfig(
    sets=4, flow_steps=10, solver="euler", order="motion_aware", temperature=6.5, temporal_scale=1.0, canvas_scale=1.0,
    guidance="constant", frame_noise=0.3, canvas_noise=0.2, noise_temperature=1.0, late_temperature=1.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Previews:
    """Folder for previews: rank 0 writes them, and the driver logs them to the MLflow run."""

    folder: Path
    autoencoder: Path  # the VAE that decodes the predictions
    steps_before: int  # total steps of the earlier phases
    clips: int = CLIPS

    def renderer(
        self, latents: Latents, conditions: Float[Tensor, "b l i"] | None, device: torch.device
    ) -> "PreviewRenderer":
        """Return the renderer of these previews on the training device. Called in the worker."""
        return PreviewRenderer(self, latents, conditions, device)

    def next_phase(self, steps: int) -> "Previews":
        """Return the previews of the next phase; `steps` is the number of steps of the current phase."""
        return dataclasses.replace(self, steps_before=self.steps_before + steps)

    def log_metrics(self, log: Run, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics and the preview of a step of this phase, with the step counted over all phases."""
        log.metrics(metrics, self.steps_before + step)
        self.log(step, log)

    def log(self, step: int, log: Run) -> None:
        """Log the preview of a step of this phase, if there is one. Delete it if it was logged."""
        film, picture = self._files(step)
        total_step = self.steps_before + step
        if picture.exists() and log.artifact(film, FOLDER) and log.image(np.load(picture), KEY, total_step):
            film.unlink()
            picture.unlink()

    def close(self, log: Run) -> None:
        """Retry the previews that could not be logged, including those of earlier phases, and delete the folder."""
        for picture in sorted(self.folder.glob("step-*.npy")):
            self.log(int(picture.stem.removeprefix("step-")) - self.steps_before, log)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self, step: int) -> tuple[Path, Path]:
        name = f"step-{self.steps_before + step:07d}"
        return self.folder / f"{name}.mp4", self.folder / f"{name}.npy"


class PreviewRenderer:
    """Renders previews: predictions from the first latent frame of each clip, and the VAE's reconstructions.

    Random draws are the same at every step. A preview is a film and a picture. The film has one row per clip, with
    reconstruction and prediction side by side. The picture has two rows per clip, reconstruction above prediction, with
    the frames side by side.
    """

    def __init__(
        self, previews: Previews, latents: Latents, conditions: Float[Tensor, "b l i"] | None, device: torch.device
    ) -> None:
        self._previews, self._device = previews, device
        self._coder = Coder(autoencoders.load(previews.autoencoder, device), device)
        self._mean, self._std = latents.mean.to(device), latents.std.to(device)
        means, _ = latents.moments(range(min(CLIPS, len(latents)))).to(device).chunk(2, dim=2)
        self._truth = standardise(means, self._mean, self._std)
        self._conditions = None if conditions is None else conditions.to(device)

    def render(self, model: nn.Module, frames: int | None, step: int) -> None:
        """Write the preview of the model after a step, of the first `frames` latent frames, or all if None."""
        truth = self._truth[:, :frames]
        assert isinstance(model, FramePredictor)
        predictor: FramePredictor = model
        if self._conditions is not None:
            predictor = conditioned(model, model.config, self._conditions)  # type: ignore[arg-type]
        sampler = SAMPLER.model_copy(update={"sets": min(SAMPLER.sets, model.most_sets)})
        stream = Stream.of(0, range(len(truth)), self._device).fork("preview")
        predictions = rollout(predictor, truth[:, :1], truth.shape[1] - 1, stream, sampler)
        predicted = torch.cat([truth[:, :1], *(frame.latent[:, None] for frame in predictions)], dim=1)
        videos = torch.stack([self._decoded(truth), self._decoded(predicted)])
        film, picture = self._previews._files(step)
        film.parent.mkdir(parents=True, exist_ok=True)
        video.write(film, rearrange(videos, "q b f c h w -> f c (b h) (q w)"), FPS)
        np.save(picture, rearrange(videos, "q b f c h w -> (b q h) (f w) c").numpy())

    def _decoded(self, latents: Float[Tensor, "b t c h w"]) -> UInt8[Tensor, "b f _ _ _"]:
        return torch.cat(list(self._coder.decode(restore(latents, self._mean, self._std))))
