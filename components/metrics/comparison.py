"""Scores of clips against their ground truth, frame by frame; whole clips and windows share one computation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from components.metrics import futures
from components.nn import pixels
from components.nn.lpips import LPIPS

MAX_PSNR = (
    100.0  # dB, upper bound of a clip's PSNR: identical clips have infinite PSNR, which would make means infinite
)
_CHUNK = 16  # clips that are scored together on the device


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of each frame of each clip."""

    squared_errors: Float64[Tensor, "b f"]  # squared grey levels
    ssim: Float[Tensor, "b f"]
    lpips: Float[Tensor, "b f"]

    def window(self, frames: slice) -> "Comparison":
        """Return the scores of these frames only."""
        return Comparison(self.squared_errors[:, frames], self.ssim[:, frames], self.lpips[:, frames])

    def means(self, samples: int) -> dict[str, float]:
        """Return the means over clips of PSNR (dB), SSIM and LPIPS.

        With several predictions (`samples`) per context, also return the means of the best prediction of each context.
        """
        scores = {
            "psnr": pixels.decibels(self.squared_errors).clamp(max=MAX_PSNR),
            "ssim": self.ssim.mean(dim=1),
            "lpips": self.lpips.mean(dim=1),
        }
        means = {name: float(values.mean()) for name, values in scores.items()}
        return means | (futures.best_of(scores, samples) if samples > 1 else {})


@torch.no_grad()
def compare(clips: UInt8[Tensor, "n f c h w"], truth: UInt8[Tensor, "b f c h w"], lpips: LPIPS) -> Comparison:
    """Compare each clip with its ground truth, on the device of `lpips`.

    Predictions of the same truth are consecutive, n / b of them. Raise InputError for frames too small for SSIM or
    LPIPS.
    """
    device = lpips.shift.device
    samples = len(clips) // len(truth)
    parts = []
    for start in range(0, len(clips), _CHUNK):
        indices = torch.arange(start, min(start + _CHUNK, len(clips)))
        x, y = clips[indices].to(device), truth[indices // samples].to(device)
        distances = lpips(*(frames.flatten(0, 1).float() / 127.5 - 1 for frames in (x, y))).unflatten(0, x.shape[:2])
        parts.append((pixels.squared_errors(x, y).cpu(), pixels.similarities(x, y).cpu(), distances.cpu()))
    return Comparison(*(torch.cat(scores) for scores in zip(*parts, strict=True)))
