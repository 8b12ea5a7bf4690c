"""An adversary that learns to tell decoded frames from true ones, patch by patch (Isola et al. 2017, section 3.2).

It looks at pairs of neighbouring frames, so that it sees motion too. VAE and adversary are trained in the same step by
the same optimiser: each term's gradient reaches only what it is meant to change.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from components.config import Config

Count = Annotated[int, Field(ge=1)]


class AdversarialConfig(Config):
    """The adversarial term: its weight, the step of the training it begins at, and the adversary's size."""

    weight: Annotated[float, Field(gt=0)]
    start: Annotated[int, Field(ge=0)]  # step; before it there is nothing worth telling apart
    pairs: Count  # of neighbouring frames of each clip, other ones in every step
    width: Count  # channels of the first layer
    depth: Annotated[int, Field(ge=1, le=5)]  # layers, each of half the sides and twice the channels of the one before

    def build(self) -> "Adversary":
        """The adversary with fresh weights."""
        return Adversary(self)


class Adversary(nn.Module):
    """Convolutions of stride 2; what comes out judges overlapping patches."""

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
        """Large where a patch looks true."""
        return self.layers(x)

    def losses(self, real: Float[Tensor, "r i h w"], fake: Float[Tensor, "r i h w"]) -> dict[str, Float[Tensor, ""]]:
        """`fooling`, whose gradient reaches the fake frames alone, and `telling` (hinge), which reaches the adversary.

        Without pairs both are zero: of zero gradient, which workers that exchange gradients wait for.
        """
        if not len(real):
            nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0.0
            return {"fooling": nothing, "telling": nothing}
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        fooling = -functional_call(self, frozen, (fake,)).float().mean()
        told = self(torch.cat([real, fake.detach()])).float()
        true, false = told[: len(real)], told[len(real) :]
        return {"fooling": fooling, "telling": 0.5 * (F.relu(1.0 - true).mean() + F.relu(1.0 + false).mean())}
