"""Clips against the truth that they belong to, frame by frame, so that clips and windows of them cost one look."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from components.metrics import futures, pixels
from components.nn.lpips import LPIPS

HIGHEST = 100.0  # dB that a clip counts with at most: an equal one has infinity, and a mean with it would say nothing
_CHUNK = 16  # clips; on a GPU so many go there together


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of each frame of each clip."""

    squared_errors: Float64[Tensor, "b f"]  # squared grey levels
    ssim: Float[Tensor, "b f"]
    lpips: Float[Tensor, "b f"]

    def window(self, frames: slice) -> "Comparison":
        """The same of some of the frames."""
        return Comparison(self.squared_errors[:, frames], self.ssim[:, frames], self.lpips[:, frames])

    def numbers(self, samples: int) -> dict[str, float]:
        """Means over clips of PSNR (dB), SSIM and LPIPS; with several predictions a context, of the best too."""
        scores = {
            "psnr": pixels.decibels(self.squared_errors).clamp(max=HIGHEST),
            "ssim": self.ssim.mean(dim=1),
            "lpips": self.lpips.mean(dim=1),
        }
        means = {name: float(of.mean()) for name, of in scores.items()}
        return means | (futures.best_of(scores, samples) if samples > 1 else {})


@torch.no_grad()
def compare(clips: UInt8[Tensor, "n f c h w"], truth: UInt8[Tensor, "b f c h w"], judge: LPIPS) -> Comparison:
    """Every clip beside its truth; predictions of the same truth are neighbours. Computed where the judge is.

    Raises InputError for frames too small for SSIM or LPIPS.
    """
    device = judge.shift.device
    each = len(clips) // len(truth)
    parts = []
    for start in range(0, len(clips), _CHUNK):
        own = torch.arange(start, min(start + _CHUNK, len(clips)))
        x, y = clips[own].to(device), truth[own // each].to(device)
        perceived = judge(*(frames.flatten(0, 1).float() / 127.5 - 1 for frames in (x, y))).unflatten(0, x.shape[:2])
        parts.append((pixels.squared_errors(x, y).cpu(), pixels.similarities(x, y).cpu(), perceived.cpu()))
    return Comparison(*(torch.cat(scores) for scores in zip(*parts, strict=True)))
