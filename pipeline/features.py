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
from pipeline.progress import meter

NETWORK = "i3d.safetensors"
BATCH = 4  # clips; the fastest on a CPU


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
        """400 numbers for each clip, out of the cache where the same clips were seen before."""
        clips = resized(clips, self.resolution)
        content = hashlib.sha256(clips.contiguous().numpy().tobytes())
        content.update(repr((tuple(clips.shape), self.digest)).encode())
        path = self.cache / f"{content.hexdigest()[:32]}.safetensors"
        if path.is_file():
            return load_file(path)["features"]
        parts = []
        with meter(f"I3D: {label}", len(clips), "clips") as shown:
            for part in i3d.stream(self.network, clips, BATCH):
                parts.append(part.cpu())
                shown.advance(len(part))
        features = torch.cat(parts)
        checkpoint.save_weights(path, {"features": features})
        return features
