"""Temporal ViT: z_t from the past frames, for all frames at once in training, frame by frame in sampling."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.settings.ranges import Count
from components.models.layers.attention import KeyValueCache, frame_causal
from components.models.layers.blocks import PlainBlock, ViTConfig, initialise
from components.models.layers.embeddings import TimePosition, grid_position, patchify

PATCH = 2  # patch size, which gives m = n / 4 tokens per frame


@dataclass(frozen=True, slots=True)
class Memory:
    """Immutable state of the past frames; several continuations can start from the same memory."""

    frames: int  # number of frames since the start of the video, also those that have left the window
    layers: tuple[KeyValueCache, ...]  # key-value cache of each layer
    z_t: Float[Tensor, "b m d"]  # output for the newest frame, which conditions the next frame
    last: Float[Tensor, "b c h w"]  # the newest frame
    previous: Float[Tensor, "b c h w"]  # the frame before the newest; the newest itself if there is only one


class TemporalConfig(ViTConfig):
    """Size of the Temporal ViT, and its attention window."""

    window: Count  # number of newest frames that a frame attends to, itself included


class TemporalViT(nn.Module):
    """Transformer that is causal across frames and bidirectional within a frame (section 4.1).

    A learned start frame precedes the first frame.
    """

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
        """Return z_t before each frame and after the last one: entry i depends on the first i frames only."""
        batch, frames = latents.shape[:2]
        x = torch.cat([self._start_frame(batch), self._embed(latents, 1)], dim=1).flatten(1, 2)
        mask = frame_causal(frames + 1, self.tokens, x.device, self.window)
        for block in self.blocks:
            x = block(x, (x.shape[1], 0, 0), mask)
        return self.norm(x).unflatten(1, (frames + 1, self.tokens))

    def remember(self, latents: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """Return the memory extended by these frames; None starts a memory with the learned start frame."""
        if memory is None:
            layers, z_t = self._extend(self._start_frame(latents.shape[0])[:, 0], (None,) * len(self.blocks))
            zeros = latents.new_zeros(latents.shape[0], *latents.shape[2:])
            memory = Memory(0, layers, z_t, zeros, zeros)
        for frame in latents.unbind(1):
            count = memory.frames + 1
            layers, z_t = self._extend(self._embed(frame[:, None], count)[:, 0], memory.layers)
            memory = Memory(count, layers, z_t, frame, memory.last if memory.frames else frame)
        return memory

    def _start_frame(self, batch: int) -> Float[Tensor, "b 1 m d"]:
        time = self.time(torch.zeros(1, device=self.begin.device))
        return (self.begin + self.position + time).expand(batch, 1, -1, -1)

    def _embed(self, latents: Float[Tensor, "b t c h w"], first: int) -> Float[Tensor, "b t m d"]:
        index = torch.arange(first, first + latents.shape[1], device=latents.device).float()
        return self.embed(patchify(latents, PATCH)) + self.position + self.time(index)[:, None]

    def _extend(
        self, x: Float[Tensor, "b m d"], past: tuple[KeyValueCache | None, ...]
    ) -> tuple[tuple[KeyValueCache, ...], Float[Tensor, "b m d"]]:
        layers = []
        for block, cache in zip(self.blocks, past, strict=True):
            assert isinstance(block, PlainBlock)
            x, extended = block.extend(x, cache)
            layers.append(extended.last((self.window - 1) * self.tokens))  # the window also holds the next frame
        return tuple(layers), self.norm(x)
