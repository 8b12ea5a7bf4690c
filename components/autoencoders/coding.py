"""A VAE at work: as many clips at a time as memory holds, in the precision that its config names."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.autoencoders.interface import to_float, to_uint8
from components.autoencoders.kinds import VAE

CPU_NUMBERS: Final = 16 * 17 * 3 * 64 * 64  # pixels' colours at a time: more is no faster, and takes memory
GPU_SHARE: Final = 0.5  # of the memory that is free; the rest is for what a longer batch takes beyond its share
GPU_MOST: Final = 64  # clips


class Coder:
    """Encodes and decodes, batch by batch.

    On a CPU the batches depend on the size of the clips alone, so equal clips give equal moments on any number of
    processes; on a GPU they depend on its memory, and moments may differ by rounding.
    """

    def __init__(self, vae: VAE, device: torch.device) -> None:
        self.vae, self.device = vae, device
        self.precision = vae.config.precision
        self._at_once: dict[tuple[int, ...], int] = {}

    def clips_at_once(self, shape: Sequence[int]) -> int:
        """How many clips of this shape (b, f, c, h, w) are encoded together."""
        one = tuple(shape[1:])
        if one not in self._at_once:
            fits = self._fits(one) if self.device.type == "cuda" else CPU_NUMBERS // prod(one)
            self._at_once[one] = max(1, fits)
        return self._at_once[one]

    def encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Iterator[Float[Tensor, "b t i _ _"]]:
        """Moments of the clips, part by part, on the device."""
        for part in clips.split(self.clips_at_once(clips.shape)):
            yield self._encode(part)

    def decode(self, latents: Float[Tensor, "b t c h w"]) -> Iterator[UInt8[Tensor, "b f _ _ _"]]:
        """Clips of the latents, part by part, on the CPU."""
        frames, side = self.vae.pixel_frames(latents.shape[1]), self.vae.strides[1]
        height, width = (side * length for length in latents.shape[3:])
        for part in latents.split(self.clips_at_once((1, frames, 3, height, width))):
            with torch.no_grad(), self._cast():
                yield to_uint8(self.vae.decode(part)).cpu()

    def _encode(self, clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b t i _ _"]:
        with torch.no_grad(), self._cast():
            return self.vae.encode(to_float(clips.to(self.device, non_blocking=True)))

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _fits(self, one: tuple[int, ...]) -> int:
        """Clips for which there is room, by what one of them takes."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._encode(torch.zeros(1, *one, dtype=torch.uint8))
        taken = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return min(GPU_MOST, int(GPU_SHARE * free / max(1, taken)))
