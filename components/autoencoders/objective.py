"""What a VAE is trained for: clips that come back alike, to the eye too, from latents near the unit Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from pydantic import Field
from torch import Tensor, nn

from components.autoencoders.adversary import AdversarialConfig
from components.autoencoders.interface import Autoencoder, sample, to_float
from components.config import Config
from components.errors import InputError
from components.nn.losses import Losses
from components.nn.lpips import LPIPS
from components.randomness import Stream

HUBER: Final = 0.3  # where the loss turns from square to straight, in units of which [-1, 1] has two

# l1 and huber grow alike for large errors, so that the other weights keep their proportion from one to the other
DISTANCES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "l1": F.l1_loss,
    "huber": lambda x, y: F.huber_loss(x, y, delta=HUBER) / HUBER,
    "mse": F.mse_loss,
}


class LPIPSConfig(Config):
    """The perceptual term: its weight, and how much of the network and of each clip it looks at."""

    weight: Annotated[float, Field(gt=0)]
    net: Literal["vgg", "alex"]
    stages: Annotated[int, Field(ge=1, le=5)]
    frames: Annotated[int, Field(ge=1)]  # of each clip, other ones in every step


class ObjectiveConfig(Config):
    """reconstruction + kl KL + lpips LPIPS + an adversary, each a mean: over pixels, numbers of the latents, frames."""

    reconstruction: Literal["l1", "huber", "mse"]
    kl: Annotated[float, Field(ge=0)]
    lpips: LPIPSConfig | None
    adversarial: AdversarialConfig | None

    def fit(self, frames: int) -> None:
        """Raises ValueError if a term looks at more frames than clips have."""
        if self.lpips and self.lpips.frames > frames:
            raise ValueError(f"objective.lpips.frames is {self.lpips.frames}; clips have {frames} frames")
        if self.adversarial and self.adversarial.pairs >= frames:
            raise ValueError(
                f"objective.adversarial.pairs is {self.adversarial.pairs}; clips of {frames} frames have {frames - 1}"
            )

    def build(self, autoencoder: Autoencoder, weights: Path) -> "VAEObjective":
        """The objective of this autoencoder; `weights` is lpips.safetensors, read only if there is a perceptual term.

        Raises InputError if the file is not what it should be.
        """
        judge = LPIPS.load(weights, self.lpips.net, self.lpips.stages) if self.lpips else None
        return VAEObjective(autoencoder, self, judge)


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of one step."""

    noise: Float[Tensor, "b t c h w"]  # of the posterior, unit normal
    frames: Int[Tensor, "b g"]  # of each clip, that the perceptual term looks at
    pairs: Int[Tensor, "b ..."]  # first frames of the pairs that the adversary looks at; none before it begins


class VAEObjective(nn.Module):
    """An autoencoder with its losses; the frozen judge of LPIPS is not among its weights, the adversary is."""

    def __init__(self, autoencoder: Autoencoder, config: ObjectiveConfig, judge: LPIPS | None) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = autoencoder
        self.adversary = config.adversarial.build() if config.adversarial else None
        self._judge = (judge,) if judge else ()  # in a tuple, where nn.Module does not look

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VAEObjective":
        for judge in self._judge:  # so that it still moves from device to device with the rest
            judge._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def draw(self, clips: UInt8[Tensor, "b f c h w"] | Float[Tensor, "b f c h w"], stream: Stream) -> Draws:
        """The chance of one step on these clips. Raises InputError for a length that does not fit."""
        frames, height, width = clips.shape[1], *clips.shape[3:]
        scored = self.config.lpips.frames if self.config.lpips else 0
        if scored > frames:
            raise InputError(f"objective.lpips.frames is {scored}, but the clips have {frames} frames; take fewer")
        space = self.autoencoder.strides[1]
        shape = (self.autoencoder.latent_frames(frames), self.autoencoder.channels, height // space, width // space)
        order = stream.fork("frames").uniform(frames).argsort(dim=1)
        pairs = self._pairs(frames, stream)
        return Draws(stream.fork("posterior").normal(*shape), order[:, :scored], pairs)

    def _pairs(self, frames: int, stream: Stream) -> Int[Tensor, "b ..."]:
        """Pairs of neighbours in a step of the training from the adversary's first on, and none in validation."""
        wanted = self.config.adversarial
        active = wanted is not None and stream.step is not None and stream.step >= wanted.start
        count = wanted.pairs if wanted is not None and active else 0
        if not count:
            return torch.zeros(len(stream.samples), 0, dtype=torch.long, device=stream.device)
        return stream.fork("pairs").uniform(frames - 1).argsort(dim=1)[:, :count]

    def no_weight_decay(self) -> set[str]:
        """The adversary's weights, which would shrink while it waits for its first step."""
        return {name for name, _ in self.named_parameters() if name.startswith("adversary.")}

    def forward(self, clips: UInt8[Tensor, "b f c h w"] | Float[Tensor, "b f c h w"], draws: Draws) -> Losses:
        """The loss of uint8 clips, or of clips already in [-1, 1], and for the log its terms and the PSNR in dB."""
        x = clips if clips.is_floating_point() else to_float(clips)
        moments = self.autoencoder.encode(x)
        y = self.autoencoder.decode(sample(moments, draws.noise))
        terms = {"reconstruction": DISTANCES[self.config.reconstruction](y, x), "kl": divergence(moments)}
        weights = {"reconstruction": 1.0, "kl": self.config.kl}
        for judge in self._judge:
            terms["lpips"] = judge(_take(y, draws.frames), _take(x, draws.frames)).mean()
            weights["lpips"] = self.config.lpips.weight if self.config.lpips else 0.0
        if self.adversary is not None and self.config.adversarial is not None and self.training:
            terms |= self.adversary.losses(_couples(x, draws.pairs), _couples(y, draws.pairs))
            # the optimiser does not mind how large the adversary's own term is, but the watch over the loss would
            weights |= dict.fromkeys(("fooling", "telling"), self.config.adversarial.weight)
        return Losses.weighted(terms | {"psnr": psnr(x, y).mean()}, weights)


def divergence(moments: Float[Tensor, "b t i h w"]) -> Float[Tensor, ""]:
    """KL of the posterior from the unit Gaussian in nats, mean over the numbers of the latents."""
    mean, log_variance = moments.chunk(2, dim=2)
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def psnr(x: Float[Tensor, "b f c h w"], y: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Peak signal to noise ratio of each clip in dB, clips in [-1, 1] (peak 2), y clamped there; without gradients."""
    error = (x.detach() - y.detach().clamp(-1.0, 1.0)).square().mean(dim=(1, 2, 3, 4))
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-10))


def _couples(clips: Float[Tensor, "b f c h w"], first: Int[Tensor, "b ..."]) -> Float[Tensor, "r i h w"]:
    """Frames and the frames after them as pictures of six channels."""
    return torch.cat([_take(clips, first), _take(clips, first + 1)], dim=1)


def _take(clips: Float[Tensor, "b f c h w"], frames: Int[Tensor, "b g"]) -> Float[Tensor, "r c h w"]:
    rows = torch.arange(clips.shape[0], device=clips.device)[:, None]
    return clips[rows, frames].flatten(0, 1)
