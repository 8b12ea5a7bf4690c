"""The training objective of a VAE: reconstruction, KL, perceptual (LPIPS) and adversarial losses."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.foundation.settings.ranges import Count, NonNegative, Positive, Whole, within
from components.nn.autoencoders.interface import Autoencoder, sample, to_float
from components.nn.losses import Losses
from components.nn.lpips import LPIPS


class AdversarialConfig(Config):
    """The adversarial loss term: its weight, its first training step, and the size of the discriminator."""

    weight: Positive  # of the term in the loss
    start: Whole  # first training step with the term; reconstructions of earlier steps are too poor to judge
    pairs: Count  # pairs of neighbouring frames from each clip, drawn anew in every step
    width: Count  # channels of the first layer
    depth: Annotated[int, within(ge=1, le=5)]  # layers; each halves height and width, later ones double channels

    def build(self) -> "Adversary":
        """Return a discriminator with newly initialised weights."""
        return Adversary(self)


class Adversary(nn.Module):
    """Patch discriminator: convolutions of stride 2, with one output value for each of many overlapping patches."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6
        for level in range(config.depth):
            wider = config.width * 2**level
            layers += [nn.Conv2d(channels, wider, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(1, wider)] if level else []
            layers += [nn.LeakyReLU(0.2)]
            channels = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Float[Tensor, "r i h w"]) -> Float[Tensor, "r o _ _"]:
        """Return a score of each patch, large where the patch looks real, for frame pairs of i = 6 channels."""
        return self.layers(x)

    def losses(self, real: Float[Tensor, "r i h w"], fake: Float[Tensor, "r i h w"]) -> dict[str, Float[Tensor, ""]]:
        """Return the generator loss `fooling` and the discriminator loss `telling` (hinge losses) of frame pairs.

        The gradient of `fooling` reaches only the fake frames, that of `telling` only the weights of the discriminator.
        With r = 0 pairs, both losses are zero and every weight gets a zero gradient, because in distributed training
        the workers wait for the gradient of every weight.
        """
        if not len(real):
            zero = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0.0
            return {"fooling": zero, "telling": zero}
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        fooling = -functional_call(self, frozen, (fake,)).float().mean()
        scores = self(torch.cat([real, fake.detach()])).float()
        real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
        return {
            "fooling": fooling,
            "telling": 0.5 * (F.relu(1.0 - real_scores).mean() + F.relu(1.0 + fake_scores).mean()),
        }


HUBER: Final = 0.3  # error at which the Huber loss turns from quadratic to linear, for pixels in [-1, 1]

# huber is scaled to the slope of l1 at large errors, so that the weights of the other terms suit both
DISTANCES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "l1": F.l1_loss,
    "huber": lambda x, y: F.huber_loss(x, y, delta=HUBER) / HUBER,
    "mse": F.mse_loss,
}


class LPIPSConfig(Config):
    """The perceptual loss term: its weight, the stages of the network, and the frames of each clip that it uses."""

    weight: Positive  # of the term in the loss
    net: Literal["vgg", "alex"]  # VGG16 or AlexNet
    stages: Annotated[int, within(ge=1, le=5)]  # number of leading stages of the network; 5 is the published LPIPS
    frames: Count  # frames of each clip, drawn anew in every step


class ObjectiveConfig(Config):
    """The loss: reconstruction + kl KL + lpips.weight LPIPS + adversarial.weight (adversarial terms).

    Each term is a mean: over pixels, over the elements of the latents, over frames, and over patches.
    """

    reconstruction: Literal["l1", "huber", "mse"]  # pixel loss
    kl: NonNegative  # weight of the KL divergence
    lpips: LPIPSConfig | None
    adversarial: AdversarialConfig | None

    def fit(self, frames: int) -> None:
        """Raise ValueError if a term needs more frames or pairs of frames than clips of `frames` frames have."""
        if self.lpips and self.lpips.frames > frames:
            raise ValueError(
                f"objective.lpips.frames is {self.lpips.frames}, but clips have {frames} frames; use at most {frames}"
            )
        if self.adversarial and self.adversarial.pairs >= frames:
            raise ValueError(
                f"objective.adversarial.pairs is {self.adversarial.pairs}, but clips of {frames} frames have "
                f"{frames - 1} pairs of neighbouring frames; use at most {frames - 1}"
            )

    def build(self, autoencoder: Autoencoder, weights: Path) -> "VAEObjective":
        """Return the objective of this autoencoder.

        `weights` is the path of lpips.safetensors, read only with a perceptual term. Raise InputError if the file is
        missing or invalid.
        """
        lpips = LPIPS.load(weights, self.lpips.net, self.lpips.stages) if self.lpips else None
        return VAEObjective(autoencoder, self, lpips)


@dataclass(frozen=True, slots=True)
class Draws:
    """Random draws of one training step."""

    noise: Float[Tensor, "b t c h w"]  # of the posterior, unit normal
    frames: Int[Tensor, "b g"]  # indices of the frames of each clip that the perceptual term uses
    pairs: Int[Tensor, "b ..."]  # first frame of each pair for the discriminator; empty before its first step


class VAEObjective(nn.Module):
    """An autoencoder with its losses. Its weights include the discriminator, but not the frozen LPIPS network."""

    def __init__(self, autoencoder: Autoencoder, config: ObjectiveConfig, lpips: LPIPS | None) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = autoencoder
        self.adversary = config.adversarial.build() if config.adversarial else None
        self._lpips = (lpips,) if lpips else ()  # nn.Module does not register modules in a tuple

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VAEObjective":
        for lpips in self._lpips:  # an unregistered module must be moved to another device explicitly
            lpips._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def draw(self, clips: UInt8[Tensor, "b f c h w"] | Float[Tensor, "b f c h w"], stream: Stream) -> Draws:
        """Return the random draws of one step on these clips. Raise InputError if the clips are too short."""
        frames, height, width = clips.shape[1], *clips.shape[3:]
        scored = self.config.lpips.frames if self.config.lpips else 0
        if scored > frames:
            raise InputError(
                f"objective.lpips.frames is {scored}, but the clips have {frames} frames; use at most {frames}"
            )
        space = self.autoencoder.strides[1]
        shape = (self.autoencoder.latent_frames(frames), self.autoencoder.channels, height // space, width // space)
        order = stream.fork("frames").uniform(frames).argsort(dim=1)
        pairs = self._pairs(frames, stream)
        return Draws(stream.fork("posterior").normal(*shape), order[:, :scored], pairs)

    def _pairs(self, frames: int, stream: Stream) -> Int[Tensor, "b ..."]:
        """Return the first frame of each pair for the discriminator: none before its first step or in validation."""
        adversarial = self.config.adversarial
        active = adversarial is not None and stream.step is not None and stream.step >= adversarial.start
        count = adversarial.pairs if adversarial is not None and active else 0
        if not count:
            return torch.zeros(len(stream.samples), 0, dtype=torch.long, device=stream.device)
        return stream.fork("pairs").uniform(frames - 1).argsort(dim=1)[:, :count]

    def no_weight_decay(self) -> set[str]:
        """Return the names of the discriminator's weights: weight decay would shrink them before its first step."""
        return {name for name, _ in self.named_parameters() if name.startswith("adversary.")}

    def forward(self, clips: UInt8[Tensor, "b f c h w"] | Float[Tensor, "b f c h w"], draws: Draws) -> Losses:
        """Return the loss of uint8 clips, or float clips in [-1, 1], with its terms and the PSNR (dB) for logging."""
        x = clips if clips.is_floating_point() else to_float(clips)
        moments = self.autoencoder.encode(x)
        y = self.autoencoder.decode(sample(moments, draws.noise))
        terms = {"reconstruction": DISTANCES[self.config.reconstruction](y, x), "kl": divergence(moments)}
        weights = {"reconstruction": 1.0, "kl": self.config.kl}
        for lpips in self._lpips:
            terms["lpips"] = lpips(_select_frames(y, draws.frames), _select_frames(x, draws.frames)).mean()
            weights["lpips"] = self.config.lpips.weight if self.config.lpips else 0.0
        if self.adversary is not None and self.config.adversarial is not None and self.training:
            terms |= self.adversary.losses(_frame_pairs(x, draws.pairs), _frame_pairs(y, draws.pairs))
            # the scale of the discriminator's loss does not change AdamW's steps, but the check for an exploding loss
            weights |= dict.fromkeys(("fooling", "telling"), self.config.adversarial.weight)
        return Losses.weighted(terms | {"psnr": psnr(x, y).mean()}, weights)


def divergence(moments: Float[Tensor, "b t i h w"]) -> Float[Tensor, ""]:
    """Return the KL divergence of the posterior from the unit Gaussian in nats, mean over the latents' elements."""
    mean, log_variance = moments.chunk(2, dim=2)
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def psnr(x: Float[Tensor, "b f c h w"], y: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Return the PSNR of each clip in dB, without gradients. Clips lie in [-1, 1] (peak 2); y is clamped to it."""
    error = (x.detach() - y.detach().clamp(-1.0, 1.0)).square().mean(dim=(1, 2, 3, 4))
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-10))


def _frame_pairs(clips: Float[Tensor, "b f c h w"], first: Int[Tensor, "b ..."]) -> Float[Tensor, "r i h w"]:
    """Return pairs of neighbouring frames, stacked as images of six channels; `first` holds the first frames."""
    return torch.cat([_select_frames(clips, first), _select_frames(clips, first + 1)], dim=1)


def _select_frames(clips: Float[Tensor, "b f c h w"], frames: Int[Tensor, "b g"]) -> Float[Tensor, "r c h w"]:
    rows = torch.arange(clips.shape[0], device=clips.device)[:, None]
    return clips[rows, frames].flatten(0, 1)
