"""Flow head: velocity of each token from a small MLP, modulated by z and flow time (MAR's head, NOVA's size)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.settings.ranges import Count
from components.models import flow
from components.models.layers.blocks import initialise
from components.models.layers.embeddings import FREQUENCIES, sinusoid


class FlowHeadConfig(Config):
    """Size of the flow head, and its loss."""

    width: Count  # channels of the MLP
    layers: Count  # residual blocks of the MLP
    repeats: Count  # noise samples of each token in a training step
    preconditioned: bool  # start from the exact velocity of unit Gaussian tokens (as EDM does); MAR starts from zero


class HeadBlock(nn.Module):
    """Residual MLP block whose scale, shift and gate come from the condition (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norm_in = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*s d"], condition: Float[Tensor, "... d"]) -> Float[Tensor, "*s d"]:
        """Apply the block; the caller has already applied the SiLU to `condition`."""
        scale, shift, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.norm_out(self.mlp(torch.addcmul(shift, self.norm_in(x), 1 + scale)))


class FlowHead(nn.Module):
    """Velocity field that models the distribution of a token given its embedding z."""

    def __init__(self, config: FlowHeadConfig, channels: int, embedding: int) -> None:
        super().__init__()
        width = config.width
        self.preconditioned = config.preconditioned
        self.embed = nn.Linear(channels, width)
        self.embed_z = nn.Sequential(nn.Linear(embedding, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        blocks = [HeadBlock(width) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        self.activation = nn.SiLU()
        initialise(self)
        for layer in (*(block.modulation for block in blocks), self.modulation, self.out):
            nn.init.zeros_(layer.weight)  # so that the velocity is zero before training (MAR)
        for part in self.embed_time:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def condition(self, z: Float[Tensor, "*s d"]) -> Float[Tensor, "*s o"]:
        """Project z for `velocity`; the result does not depend on time, so one call serves all integration steps."""
        return self.embed_z(z)

    def velocity(
        self, x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], condition: Float[Tensor, "... o"]
    ) -> Float[Tensor, "*s p"]:
        """Return the velocity at x; the leading axes of `time` and `condition` must broadcast to those of x."""
        y = self.activation(condition + self.embed_time(sinusoid(1000 * time, FREQUENCIES)))
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden, y)
        scale, shift = self.modulation(y).chunk(2, dim=-1)
        out = self.out(torch.addcmul(shift, self.norm(hidden), 1 + scale))
        return gaussian(x, time[..., None], out) if self.preconditioned else out

    def loss(
        self,
        x: Float[Tensor, "b k p"],
        z: Float[Tensor, "b k d"],
        noise: Float[Tensor, "b k a p"],
        time: Float[Tensor, "b k a"],
        scale: Float[Tensor, "b k p"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the flow-matching loss, the mean over tokens, repeats and channels (L_MAR of Eq. 10).

        For relative tokens, `scale` converts the velocity error to units of the latents: scale^2 times its square.
        """
        data = x[:, :, None].expand_as(noise)
        predicted = self.velocity(flow.interpolate(data, noise, time), time, self.condition(z)[:, :, None])
        error = predicted.float() - flow.velocity(data, noise)
        return (error if scale is None else error * scale[:, :, None]).square().mean()


def gaussian(
    x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], correction: Float[Tensor, "*s p"]
) -> Float[Tensor, "*s p"]:
    """Return the velocity E[noise - data | x] of unit Gaussian data plus a scaled correction.

    The scale is the conditional standard deviation of noise - data, 1 / sqrt(time^2 + (1 - time)^2), so that the
    network output `correction` has about unit variance even for data that are far from Gaussian.
    """
    power = time.square() + (1 - time).square()
    return x * (2 * time - 1) / power + correction * power.rsqrt()
