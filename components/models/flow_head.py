"""Flow head: velocity of each token from a small MLP, modulated by z and flow time (MAR's head, NOVA's size)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.settings.ranges import Count
from components.models import flow, gaussian
from components.models.gaussian import Gaussian
from components.models.layers.blocks import initialise
from components.models.layers.embeddings import FREQUENCIES, sinusoid

SPREAD_WEIGHT: Final = 0.1
MAX_ROWS: Final = 4096  # rows of one product of `VelocityField`; more rows take memory and no longer save time


class FlowHeadConfig(Config):
    """Size of the flow head, and its loss."""

    width: Count  # channels of the MLP
    layers: Count  # residual blocks of the MLP
    repeats: Count  # noise samples of each token in a training step
    preconditioned: bool  # correct the exact velocity of a Gaussian predicted from z; MAR starts from zero


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
        self.fit = nn.Linear(embedding, 2 * channels) if config.preconditioned else None
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
            nn.init.zeros_(layer.weight)  # so that the network's output is zero before training (MAR)
        if self.fit is not None:  # mean 0 and standard deviation 1 before training
            nn.init.zeros_(self.fit.weight)
            nn.init.constant_(self.fit.bias[channels:], gaussian.unbounded(1.0))
        for part in self.embed_time:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def condition(self, z: Float[Tensor, "*s d"]) -> Float[Tensor, "*s o"]:
        """Project z for `velocity`; the result does not depend on time, so one call serves all integration steps."""
        embedded = self.embed_z(z)
        return embedded if self.fit is None else torch.cat([embedded, self.fit(z).to(embedded.dtype)], dim=-1)

    def split(self, condition: Float[Tensor, "*s o"]) -> tuple[Float[Tensor, "*s d"], Gaussian | None]:
        """Return what modulates the network, and the Gaussian of the tokens; None for a head without one."""
        if self.fit is None:
            return condition, None
        embedded, fitted = condition.split([condition.shape[-1] - self.fit.out_features, self.fit.out_features], dim=-1)
        mean, unbounded = fitted.chunk(2, dim=-1)
        return embedded, Gaussian(mean.float(), gaussian.log_std(unbounded))

    def velocity(
        self, x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], condition: Float[Tensor, "... o"]
    ) -> Float[Tensor, "*s p"]:
        """Return the velocity at x; the leading axes of `time` and `condition` must broadcast to those of x."""
        embedded, prior = self.split(condition)
        return self._velocity(x, time, embedded, None if prior is None else prior.detach())

    def _velocity(
        self, x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], embedded: Float[Tensor, "... d"],
        prior: Gaussian | None,
    ) -> Float[Tensor, "*s p"]:  # fmt: skip
        y = self.embed_condition(time, embedded)
        u, exact, spread = (x, 0.0, 1.0) if prior is None else prior.at(x, time[..., None])
        hidden = self.embed(u)
        for block in self.blocks:  # called as modules, because FSDP gathers the weights of a block at its call
            hidden = block(hidden, y)
        return exact + spread * self.project(hidden, *self.modulate(y))

    def embed_condition(self, time: Float[Tensor, "..."], embedded: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return y, which modulates all blocks; its leading axes are those of both arguments after broadcasting."""
        return self.activation(embedded + self.embed_time(sinusoid(1000 * time, FREQUENCIES)))

    def modulate(self, y: Float[Tensor, "... d"]) -> tuple[Tensor, Tensor]:
        """Return the scale and shift before the output."""
        scale, shift = self.modulation(y).chunk(2, dim=-1)
        return 1 + scale, shift

    def project(self, hidden: Float[Tensor, "... d"], scale: Tensor, shift: Tensor) -> Float[Tensor, "... p"]:
        """Return the network's output: the velocity, or its difference to the Gaussian's in units of the spread."""
        return self.out(torch.addcmul(shift, self.norm(hidden), scale))

    def velocity_field(self, conditions: tuple[Float[Tensor, "b k o"], ...], times: Sequence[float]) -> "VelocityField":
        """Return the velocity under each condition as a function of tokens and flow time, for times of `flow.times`."""
        return VelocityField(self, torch.stack(conditions), times)

    def losses(
        self,
        x: Float[Tensor, "b k p"],
        z: Float[Tensor, "b k d"],
        noise: Float[Tensor, "b k a p"],
        time: Float[Tensor, "b k a"],
        scale: Float[Tensor, "b k p"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the flow-matching loss `flow`, the mean over tokens, repeats and channels (L_MAR of Eq. 10).

        A preconditioned head also returns the losses of its Gaussian: `mean`, a squared error, and `spread`, a negative
        log-likelihood. For relative tokens, `scale` converts the errors of `flow` and `mean` to units of the latents:
        scale^2 times the square. `weights` has the weights of all terms.
        """
        data = x[:, :, None].expand_as(noise)
        embedded, prior = self.split(self.condition(z)[:, :, None])
        terms = {}
        if prior is not None and self.fit is not None:
            error = x[:, :, None] - prior.mean
            terms["mean"] = (error if scale is None else error * scale[:, :, None]).square().mean()
            alone = gaussian.log_std(self.fit(z.detach()).chunk(2, dim=-1)[1])  # the spread does not train z
            terms["spread"] = gaussian.negative_log_likelihood(error[:, :, 0], alone)
            prior = prior.detach()
        predicted = self._velocity(flow.interpolate(data, noise, time), time, embedded, prior)
        error = predicted.float() - flow.velocity(data, noise)
        terms["flow"] = (error if scale is None else error * scale[:, :, None]).square().mean()
        return terms

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms of `losses` in the total loss."""
        return {"flow": 1.0} | ({} if self.fit is None else {"mean": 1.0, "spread": SPREAD_WEIGHT})


class VelocityField:
    """Velocity of one set of tokens under several conditions, at equally spaced flow times that are known beforehand.

    The modulations are two thirds of the head's operations and do not depend on the tokens. They are therefore computed
    for several times in one product, instead of in every step: fewer kernels, and larger matrices.
    """

    def __init__(self, head: FlowHead, condition: Float[Tensor, "c b k o"], times: Sequence[float]) -> None:
        self._head = head
        self._condition, self._prior = head.split(condition)
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
        u = x
        if self._prior is not None:
            u, exact, spread = self._prior.at(x, time)
        hidden = self._head.embed(u)
        for block, modulation in zip(self._blocks, blocks, strict=True):
            hidden = block.modulated(hidden, *modulation)
        out = self._head.project(hidden, *last)
        if self._prior is not None:
            out = torch.addcmul(exact, spread, out)
        return out.unbind()
