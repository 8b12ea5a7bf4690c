"""I3D features of clips, kept by content: the same clips are never looked at twice."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor

from components import checkpoint
from components.data import video
from components.metrics import i3d
from components.metrics.i3d import I3D
from pipeline.progress import Meter, meter

NETWORK = "i3d.safetensors"
BATCH = 4  # clips; the fastest on a CPU
PIECE = 64  # clips that are kept together


def resized(clips: UInt8[Tensor, "b f c h w"], side: int) -> UInt8[Tensor, "b f c _ _"]:
    """Clips at the resolution of the protocol, real and predicted ones alike."""
    if clips.shape[-2:] == (side, side):
        return clips
    return torch.stack([video.fit(clip, (side, side)) for clip in clips])


class Features:
    """The network of FVD at the resolution of a protocol, with a memory on disk."""

    def __init__(self, weights: Path, device: torch.device, cache: Path, resolution: int) -> None:
        self.network = I3D.load(weights / NETWORK).to(device)
        self.device = device
        self.cache = cache
        self.resolution = resolution
        self.digest = checkpoint.sha256(weights / NETWORK)[:16]

    def of(self, clips: UInt8[Tensor, "b f c h w"], label: str) -> Float[Tensor, "b d"]:
        """400 numbers for each clip, out of the cache where the same clips were seen before.

        Clips are kept by pieces, so that what an interrupted evaluation has seen is not looked at again.
        """
        pieces = [resized(piece, self.resolution) for piece in clips.split(PIECE)]
        paths = [self._path(piece) for piece in pieces]
        new = sum(len(piece) for piece, path in zip(pieces, paths, strict=True) if not path.is_file())
        if new:
            with meter(f"I3D: {label}", new, "clips") as shown:
                for piece, path in zip(pieces, paths, strict=True):
                    if not path.is_file():
                        self._look(piece, path, shown)
        return torch.cat([load_file(path)["features"] for path in paths])

    def _path(self, piece: UInt8[Tensor, "b f c h w"]) -> Path:
        content = hashlib.sha256(piece.contiguous().numpy().tobytes())
        content.update(repr((tuple(piece.shape), self.digest)).encode())
        return self.cache / f"{content.hexdigest()[:32]}.safetensors"

    def _look(self, piece: UInt8[Tensor, "b f c h w"], path: Path, shown: Meter) -> None:
        parts = []
        for part in i3d.stream(self.network, piece, BATCH):
            parts.append(part.cpu())
            shown.advance(len(part))
        checkpoint.save_weights(path, {"features": torch.cat(parts)})
