"""I3D features of clips, kept by content: the same clips are never looked at twice."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor

from components import checkpoint
from components.data import video
from components.metrics import i3d
from components.metrics.i3d import I3D
from pipeline import cluster
from pipeline.hands import ALONE, Hands

NETWORK = "i3d.safetensors"
BATCH = 4  # clips; the fastest on a CPU
PIECE = 32  # clips that are looked at and kept together

Piece = tuple[Tensor, Path]  # clips at the resolution of the protocol, and where their features go


def resized(clips: UInt8[Tensor, "b f c h w"], side: int) -> UInt8[Tensor, "b f c _ _"]:
    """Clips at the resolution of the protocol, real and predicted ones alike."""
    if clips.shape[-2:] == (side, side):
        return clips
    return torch.stack([video.fit(clip, (side, side)) for clip in clips])


class Features:
    """The network of FVD at the resolution of a protocol, with a memory on disk.

    Many clips are spread over the hands there are; the memory must lie where all of them see it.
    """

    def __init__(self, weights: Path, device: torch.device, cache: Path, resolution: int, hands: Hands = ALONE) -> None:
        self.weights = weights.resolve() / NETWORK
        self.network = I3D.load(self.weights).to(device)
        self.cache = cache.resolve()
        self.resolution = resolution
        self.digest = checkpoint.sha256(self.weights)[:16]
        self.hands = hands

    def of(self, clips: UInt8[Tensor, "b f c h w"], label: str) -> Float[Tensor, "b d"]:
        """400 numbers for each clip, out of the cache where the same clips were seen before.

        Clips are kept by pieces, so that what an interrupted evaluation has seen is not looked at again. Raises
        InputError for clips that I3D cannot look at.
        """
        i3d.check(clips)
        pieces = clips.split(PIECE)
        paths = [self._path(resized(piece, self.resolution)) for piece in pieces]
        new = [place for place, path in enumerate(paths) if not path.is_file()]
        if new:
            spread = self.hands.places > 1
            self.hands.map(
                functools.partial(_looker, self.weights) if spread else lambda: functools.partial(_look, self.network),
                ((resized(pieces[place], self.resolution), paths[place]) for place in new),
                count=lambda item: len(item[0]),
                total=sum(len(pieces[place]) for place in new),
                label=f"I3D: {label}",
                unit="clips",
            )
        return torch.cat([load_file(path)["features"] for path in paths])

    def _path(self, piece: UInt8[Tensor, "b f c h w"]) -> Path:
        content = hashlib.sha256(piece.contiguous().numpy().tobytes())
        content.update(repr((tuple(piece.shape), self.digest)).encode())
        return self.cache / f"{content.hexdigest()[:32]}.safetensors"


def _looker(weights: Path) -> Callable[[Piece], None]:
    """A network of its own for another process."""
    return functools.partial(_look, I3D.load(weights).to(cluster.device()))


def _look(network: I3D, piece: Piece) -> None:
    clips, path = piece
    checkpoint.save_weights(path, {"features": i3d.features(network, clips, BATCH)})
