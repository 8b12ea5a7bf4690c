"""Past frames -> z_t, all at once in training, frame after frame with a memory in sampling."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.nn.attention import KeysValues, frame_causal
from components.nn.blocks import PlainBlock, ViTConfig, initialise
from components.nn.embeddings import TimePosition, grid_position, patchify

PATCH = 2  # hence n_t = n / 4 tokens a frame


@dataclass(frozen=True, slots=True)
class Memory:
    """What the model knows of a video so far: a value, good for as many continuations as one likes."""

    frames: int  # seen so far, an absolute count
    layers: tuple[KeysValues, ...]
    z_t: Float[Tensor, "b m d"]  # the last block's output, which conditions the next frame
    last: Float[Tensor, "b c h w"]  # the newest frame


class TemporalConfig(ViTConfig):
    """The Temporal ViT, and how many frames a frame may attend to, itself included, however long the video."""

    window: int


class TemporalViT(nn.Module):
    """Causal from frame to frame, bidirectional within a frame (section 4.1); a learned frame comes first."""

    position: Float[Tensor, "m d"]

    def __init__(self, config: TemporalConfig, latent: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = latent
        self.window = config.window
        self.tokens = height * width // PATCH**2
        self.embed = nn.Linear(channels * PATCH**2, config.width)
        self.begin = nn.Parameter(torch.randn(config.width) * 0.02)
        self.time = TimePosition(config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("position", grid_position(height // PATCH, width // PATCH, config.width), persistent=False)
        initialise(self)

    def forward(self, latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t+1 m d"]:
        """z_t for every frame that follows: entry i has seen the first i of these frames and nothing else."""
        batch, frames = latents.shape[:2]
        x = torch.cat([self._begin(batch), self._embed(latents, 1)], dim=1).flatten(1, 2)
        mask = frame_causal(frames + 1, self.tokens, x.device, self.window)
        for block in self.blocks:
            x = block(x, (x.shape[1], 0, 0), mask)
        return self.norm(x).unflatten(1, (frames + 1, self.tokens))

    def remember(self, latents: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """The memory with these frames in it; from none it begins with the learned block."""
        if memory is None:
            layers, z_t = self._extend(self._begin(latents.shape[0])[:, 0], (None,) * len(self.blocks))
            memory = Memory(0, layers, z_t, latents.new_zeros(latents.shape[0], *latents.shape[2:]))
        for frame in latents.unbind(1):
            count = memory.frames + 1
            layers, z_t = self._extend(self._embed(frame[:, None], count)[:, 0], memory.layers)
            memory = Memory(count, layers, z_t, frame)
        return memory

    def _begin(self, batch: int) -> Float[Tensor, "b 1 m d"]:
        time = self.time(torch.zeros(1, device=self.begin.device))
        return (self.begin + self.position + time).expand(batch, 1, -1, -1)

    def _embed(self, latents: Float[Tensor, "b t c h w"], first: int) -> Float[Tensor, "b t m d"]:
        index = torch.arange(first, first + latents.shape[1], device=latents.device).float()
        return self.embed(patchify(latents, PATCH)) + self.position + self.time(index)[:, None]

    def _extend(
        self, x: Float[Tensor, "b m d"], past: tuple[KeysValues | None, ...]
    ) -> tuple[tuple[KeysValues, ...], Float[Tensor, "b m d"]]:
        layers = []
        for block, seen in zip(self.blocks, past, strict=True):
            assert isinstance(block, PlainBlock)
            x, memory = block.extend(x, seen)
            layers.append(memory.last((self.window - 1) * self.tokens))  # a new frame is the window's last
        return tuple(layers), self.norm(x)
