"""Batched encoding and decoding with a VAE: batches that fit into memory, in the precision of the VAE's config."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.nn.autoencoders.interface import to_float, to_uint8
from components.nn.autoencoders.kinds import VAE

CPU_VALUES: Final = 16 * 17 * 3 * 64 * 64  # values of a batch of clips; larger batches are no faster
GPU_SHARE: Final = 0.5  # of the free memory; the rest is headroom, as memory may grow faster than the batch
GPU_MAX_CLIPS: Final = 64  # clips in a batch


class Coder:
    """Encode and decode clips, batch by batch.

    On a CPU the batch size depends only on the shape of the clips, so equal clips give equal moments in any number of
    processes. On a GPU it depends on the free memory, so moments may differ by rounding.
    """

    def __init__(self, vae: VAE, device: torch.device) -> None:
        self.vae, self.device = vae, device
        self.precision = vae.config.precision
        self._batch_sizes: dict[tuple[int, ...], int] = {}

    def batch_size(self, shape: Sequence[int]) -> int:
        """Return the batch size for clips of this shape (b, f, c, h, w)."""
        clip_shape = tuple(shape[1:])
        if clip_shape not in self._batch_sizes:
            fits = self._fits(clip_shape) if self.device.type == "cuda" else CPU_VALUES // prod(clip_shape)
            self._batch_sizes[clip_shape] = max(1, fits)
        return self._batch_sizes[clip_shape]

    def encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Iterator[Float[Tensor, "b t i _ _"]]:
        """Yield the moments of the clips, batch by batch, on the device."""
        for part in clips.split(self.batch_size(clips.shape)):
            yield self._encode(part)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Iterator[UInt8[Tensor, "b f _ _ _"]]:
        """Yield the decoded clips, batch by batch, on the CPU."""
        frames, side = self.vae.pixel_frames(latents.shape[1]), self.vae.strides[1]
        height, width = (side * length for length in latents.shape[3:])
        for part in latents.split(self.batch_size((1, frames, 3, height, width))):
            with torch.no_grad(), self._cast():
                yield to_uint8(self.vae.decode(part)).cpu()

    def _encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        with torch.no_grad(), self._cast():
            return self.vae.encode(to_float(clips.to(self.device, non_blocking=True)))

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _fits(self, clip_shape: tuple[int, ...]) -> int:
        """Return the number of clips that fit into GPU memory, from the peak memory of encoding one clip."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._encode(torch.zeros(1, *clip_shape, dtype=torch.uint8))
        clip_bytes = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return min(GPU_MAX_CLIPS, int(GPU_SHARE * free / max(1, clip_bytes)))
