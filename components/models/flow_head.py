"""z -> the velocity of each token: a small MLP, modulated by z and by time (MAR's head, NOVA's size)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components import flow
from components.config import Config
from components.nn.blocks import initialise
from components.nn.embeddings import FREQUENCIES, sinusoid


class FlowHeadConfig(Config):
    """Size of the head, and how many times each token is noised anew in a training step."""

    width: int
    layers: int
    repeats: int


class HeadBlock(nn.Module):
    """A residual MLP whose scale, shift and gate come from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norm_in = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "*s d"], condition: Float[Tensor, "... d"]) -> Float[Tensor, "*s d"]:
        """One block; `condition` has been through its SiLU."""
        scale, shift, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.norm_out(self.mlp(torch.addcmul(shift, self.norm_in(x), 1 + scale)))


class FlowHead(nn.Module):
    """The distribution of a token given its embedding z, as a velocity field."""

    def __init__(self, config: FlowHeadConfig, numbers: int, embedding: int) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Linear(numbers, width)
        self.embed_z = nn.Sequential(nn.Linear(embedding, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        blocks = [HeadBlock(width) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, numbers)
        self.activation = nn.SiLU()
        initialise(self)
        for layer in (*(block.modulation for block in blocks), self.modulation, self.out):
            nn.init.zeros_(layer.weight)  # gates and output: the first velocity is zero (MAR)
        for part in self.embed_time:
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def condition(self, z: Float[Tensor, "*s d"]) -> Float[Tensor, "*s o"]:
        """What the head needs of z, the same at every time: computed once for all steps of the integration."""
        return self.embed_z(z)

    def velocity(
        self, x: Float[Tensor, "*s p"], time: Float[Tensor, "..."], condition: Float[Tensor, "... o"]
    ) -> Float[Tensor, "*s p"]:
        """The velocity at x; the leading shapes of `time` and `condition` are that of x, or broadcast to it."""
        y = self.activation(condition + self.embed_time(sinusoid(1000 * time, FREQUENCIES)))
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden, y)
        scale, shift = self.modulation(y).chunk(2, dim=-1)
        return self.out(torch.addcmul(shift, self.norm(hidden), 1 + scale))

    def loss(
        self,
        x: Float[Tensor, "b k p"],
        z: Float[Tensor, "b k d"],
        noise: Float[Tensor, "b k a p"],
        time: Float[Tensor, "b k a"],
    ) -> Float[Tensor, ""]:
        """Flow-matching loss, the mean over tokens, repeats and channels (L_MAR of Eq. 10)."""
        data = x[:, :, None].expand_as(noise)
        predicted = self.velocity(flow.interpolate(data, noise, time), time, self.condition(z)[:, :, None])
        return (predicted.float() - flow.velocity(data, noise)).square().mean()
