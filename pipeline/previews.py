"""What a video model makes of a few validation clips while it is trained: pictures for whoever watches the run."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.autoencoders import trained as autoencoders
from components.autoencoders.coding import Coder
from components.data import video
from components.data.latents import Latents, restore, standardise
from components.models.conditions import Given
from components.randomness import Stream
from components.sampling.frame import SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.rollout import rollout
from components.tracking import Run

SHOWN: Final = 2  # validation clips
FPS: Final = 8
FOLDER: Final = "validation"  # of the run's artifacts
KEY: Final = "reconstruction above prediction"
# no row's own, since a change of that would train the model anew; no guidance, which a young model is not ready for
SAMPLER: Final = SamplerConfig(
    sets=4, flow_steps=10, solver="euler", order="motion_aware", temperature=6.5, temporal_scale=1.0, canvas_scale=1.0,
    guidance="constant", frame_noise=0.3, canvas_noise=0.2, late_temperature=1.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Album:
    """Where the first worker puts its pictures and the driver finds them, and the VAE that decodes them."""

    folder: Path
    autoencoder: Path
    before: int  # steps of the phases before this one

    def log(self, step: int, log: Run) -> None:
        """The pictures after a step of the phase into the run, if there are any; they stay if it is out of reach."""
        film, strip = self._files(step)
        if strip.exists() and log.artifact(film, FOLDER) and log.image(np.load(strip), KEY, self.before + step):
            film.unlink()
            strip.unlink()

    def close(self, log: Run) -> None:
        """Tries once more to log what stayed, of earlier phases too, and removes the folder."""
        for strip in sorted(self.folder.glob("step-*.npy")):
            self.log(int(strip.stem.removeprefix("step-")) - self.before, log)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self, step: int) -> tuple[Path, Path]:
        name = f"step-{self.before + step:07d}"
        return self.folder / f"{name}.mp4", self.folder / f"{name}.npy"


class Painter:
    """Continues the first frame of a few clips, always with the same chance, and draws them below what the VAE shows.

    A film has a clip a row, reconstruction and prediction side by side; the picture has the frames side by side.
    """

    def __init__(
        self, album: Album, latents: Latents, conditions: Float[Tensor, "b l i"] | None, device: torch.device
    ) -> None:
        self._album, self._device = album, device
        self._coder = Coder(autoencoders.load(album.autoencoder, device), device)
        self._mean, self._std = latents.mean.to(device), latents.std.to(device)
        means, _ = latents.moments(range(min(SHOWN, len(latents)))).to(device).chunk(2, dim=2)
        self._truth = standardise(means, self._mean, self._std)
        self._conditions = None if conditions is None else conditions.to(device)

    def paint(self, model: nn.Module, frames: int | None, step: int) -> None:
        """The predictions of the first so many latent frames, all for None, after a step."""
        truth = self._truth[:, :frames]
        assert isinstance(model, FramePredictor)
        under = model if self._conditions is None else Given(model, self._conditions)  # type: ignore[arg-type]
        sampler = SAMPLER.model_copy(update={"sets": min(SAMPLER.sets, model.most_sets)})
        stream = Stream.of(0, range(len(truth)), self._device).fork("preview")
        made = rollout(under, truth[:, :1], truth.shape[1] - 1, stream, sampler)
        predicted = torch.cat([truth[:, :1], *(frame.latent[:, None] for frame in made)], dim=1)
        both = torch.stack([self._decoded(truth), self._decoded(predicted)])
        film, strip = self._album._files(step)
        film.parent.mkdir(parents=True, exist_ok=True)
        video.write(film, rearrange(both, "q b f c h w -> f c (b h) (q w)"), FPS)
        np.save(strip, rearrange(both, "q b f c h w -> (b q h) (f w) c").numpy())

    def _decoded(self, latents: Float[Tensor, "b t c h w"]) -> UInt8[Tensor, "b f _ _ _"]:
        return torch.cat(list(self._coder.decode(restore(latents, self._mean, self._std))))
