"""Flow head: velocity of each token from a small MLP, modulated by z and flow time (MAR's head, NOVA's size)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.settings.ranges import Count
from components.models import flow
from components.models.layers.blocks import initialise
from components.models.layers.embeddings import FREQUENCIES, sinusoid

MAX_ROWS: Final = 4096  # rows of one product of `VelocityField`; more rows take memory and no longer save time


class FlowHeadConfig(Config):
    """Size of the flow head, and its loss."""

    width: Count  # channels of the MLP
    layers: Count  # residual blocks of the MLP
    repeats: Count  # noise samples of each token in a training step
    preconditioned: bool  # start from the exact velocity of unit Gaussian tokens (as EDM does); MAR starts from zero


class HeadBlock(nn.Module):
    """Residual MLP block whose scale, shift and gate come from z and flow time (adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norm_in = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*s d"], y: Float[Tensor, "... d"]) -> Float[Tensor, "*s d"]:
        """Apply the block; y is the embedded z and flow time, to which the SiLU has been applied."""
        return self.modulated(x, *self.modulate(y))

    def modulate(self, y: Float[Tensor, "... d"]) -> tuple[Tensor, ...]:
        """Return the scale, shift and gate of y."""
        scale, shift, gate = self.modulation(y).chunk(3, dim=-1)
        return 1 + scale, shift, gate

    def modulated(
        self, x: Float[Tensor, "... d"], scale: Tensor, shift: Tensor, gate: Tensor
    ) -> Float[Tensor, "... d"]:
        """Apply the block with the scale, shift and gate of `modulate`, which broadcast with x."""
        return torch.addcmul(x, gate, self.norm_out(self.mlp(torch.addcmul(shift, self.norm_in(x), scale))))


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
        y = self.embed_condition(time, condition)
        hidden = self.embed(x)
        for block in self.blocks:  # called as modules, because FSDP gathers the weights of a block at its call
            hidden = block(hidden, y)
        out = self.project(hidden, *self.modulate(y))
        return gaussian(x, time[..., None], out) if self.preconditioned else out

    def embed_condition(self, time: Float[Tensor, "..."], condition: Float[Tensor, "... o"]) -> Float[Tensor, "... o"]:
        """Return y, which modulates all blocks; its leading axes are those of both arguments after broadcasting."""
        return self.activation(condition + self.embed_time(sinusoid(1000 * time, FREQUENCIES)))

    def modulate(self, y: Float[Tensor, "... o"]) -> tuple[Tensor, Tensor]:
        """Return the scale and shift before the output."""
        scale, shift = self.modulation(y).chunk(2, dim=-1)
        return 1 + scale, shift

    def project(self, hidden: Float[Tensor, "... d"], scale: Tensor, shift: Tensor) -> Float[Tensor, "... p"]:
        """Return the network's output: the velocity, or the argument `correction` of `gaussian`."""
        return self.out(torch.addcmul(shift, self.norm(hidden), scale))

    def velocity_field(self, conditions: tuple[Float[Tensor, "b k o"], ...], times: Sequence[float]) -> "VelocityField":
        """Return the velocity under each condition as a function of tokens and flow time, for times of `flow.times`."""
        return VelocityField(self, torch.stack(conditions), times)

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


class VelocityField:
    """Velocity of one set of tokens under several conditions, at equally spaced flow times that are known beforehand.

    The modulations are two thirds of the head's operations and do not depend on the tokens. They are therefore computed
    for several times in one product, instead of in every step: fewer kernels, and larger matrices.
    """

    def __init__(self, head: FlowHead, condition: Float[Tensor, "c b k o"], times: Sequence[float]) -> None:
        self._head, self._condition = head, condition
        self._blocks = [block for block in head.blocks if isinstance(block, HeadBlock)]
        self._indices = {time: index for index, time in enumerate(times)}
        # made on the device, because a CUDA graph cannot record a copy from the CPU
        spaced = torch.linspace(times[0], times[-1], len(times), dtype=torch.float64, device=condition.device)
        self._times = spaced.float()[:, None, None, None]
        self._group = max(1, MAX_ROWS // condition.shape[:-1].numel())  # times in one product
        self._first = -1
        self._modulations: list[tuple[Tensor, ...]] = []  # of each block and of the output, for the times of a group

    def __call__(self, x: Float[Tensor, "b k p"], time: float) -> tuple[Float[Tensor, "b k p"], ...]:
        """Return the velocity at x under each condition. Raises KeyError if `time` is not one of the times."""
        first, offset = divmod(self._indices[time], self._group)
        if first != self._first:
            several = self._times[first * self._group : (first + 1) * self._group]
            y = self._head.embed_condition(several, self._condition)
            modulations = [block.modulate(y) for block in self._blocks]
            self._first, self._modulations = first, [*modulations, self._head.modulate(y)]
        *blocks, last = ([part[offset] for part in parts] for parts in self._modulations)
        hidden = self._head.embed(x)
        for block, modulation in zip(self._blocks, blocks, strict=True):
            hidden = block.modulated(hidden, *modulation)
        out = self._head.project(hidden, *last)
        if self._head.preconditioned:
            power = time**2 + (1 - time) ** 2  # `gaussian`, for one time
            out = torch.add(x * ((2 * time - 1) / power), out, alpha=power**-0.5)
        return out.unbind()


def gaussian(
    x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], correction: Float[Tensor, "*s p"]
) -> Float[Tensor, "*s p"]:
    """Return the velocity E[noise - data | x] of unit Gaussian data plus a scaled correction.

    The scale is the conditional standard deviation of noise - data, 1 / sqrt(time^2 + (1 - time)^2), so that the
    network output `correction` has about unit variance even for data that are far from Gaussian.
    """
    power = time.square() + (1 - time).square()
    return x * (2 * time - 1) / power + correction * power.rsqrt()
