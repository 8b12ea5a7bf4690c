"""I3D features of clips, cached by content: the features of equal clips are computed once."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor

from components.datasets import resizing
from components.foundation import devices
from components.foundation.caching import cache as caching
from components.foundation.caching import code
from components.foundation.caching.cache import Cache, Entry
from components.foundation.files import sha256
from components.foundation.parallel import ParallelMap
from components.metrics.distances import i3d
from components.metrics.distances.i3d import I3D

NETWORK, FILE = "i3d.safetensors", "features.safetensors"
BATCH = 4  # clips; the fastest on a CPU
CACHE_BATCH = 32  # clips in a cache entry

Inputs = dict[str, str]  # cache key: hashes of the clips and of the network
Task = tuple[Tensor, Inputs]  # clips at the resolution of the protocol, and their cache key


def resized(clips: UInt8[Tensor, "b f c h w"], side: int) -> UInt8[Tensor, "b f c _ _"]:
    """Return the clips resized to `side` x `side` pixels, the resolution of the protocol."""
    if clips.shape[-2:] == (side, side):
        return clips
    return torch.stack([resizing.fit(clip, (side, side)) for clip in clips])


class FeatureExtractor:
    """I3D at the resolution of a protocol, with cached results.

    `parallel` maps the network over batches of clips; all its workers must be able to access the cache folder.
    """

    def __init__(
        self, weights: Path, device: torch.device, cache: Cache, resolution: int, parallel: ParallelMap
    ) -> None:
        self.weights = weights.resolve() / NETWORK
        self.network = I3D.load(self.weights).to(device)
        self.cache = cache
        self.resolution = resolution
        self.digest = sha256(self.weights)[:16]
        self.parallel = parallel

    def extract(self, clips: UInt8[Tensor, "b f c h w"], label: str) -> Float[Tensor, "b d"]:
        """Return the 400 features of each clip, from the cache if it holds equal clips.

        Clips are cached in batches, so that a resumed evaluation skips finished batches. Raises InputError for
        clips that I3D does not accept.
        """
        i3d.check(clips)
        batches = clips.split(CACHE_BATCH)
        inputs = [self._inputs(resized(batch, self.resolution)) for batch in batches]
        features = {index: _cached(self.cache, key) for index, key in enumerate(inputs)}
        missing = [index for index, cached in features.items() if cached is None]
        if missing:
            inline = self.parallel.num_workers == 1
            extract = functools.partial(_extract, self.network, self.cache)
            computed = self.parallel(
                (lambda: extract) if inline else functools.partial(_load, self.weights, self.cache),
                ((resized(batches[index], self.resolution), inputs[index]) for index in missing),
                size=lambda task: len(task[0]),
                total=sum(len(batches[index]) for index in missing),
                label=f"I3D: {label}",
                unit="clips",
            )
            features |= dict(zip(missing, computed, strict=True))
        return torch.cat([part for part in features.values() if part is not None])

    def _inputs(self, batch: UInt8[Tensor, "b f c h w"]) -> Inputs:
        return {"clips": caching.digest(batch), "network": self.digest}


def _load(weights: Path, cache: Cache) -> Callable[[Task], Float[Tensor, "b d"]]:
    """Load the network in a worker process and return its `_extract`."""
    return functools.partial(_extract, I3D.load(weights).to(devices.device()), cache)


def _extract(network: I3D, cache: Cache, task: Task) -> Float[Tensor, "b d"]:
    clips, inputs = task
    with _entry(cache, inputs) as entry:
        path = entry.path / FILE
        if not caching.whole(path):  # else another process has computed the same clips
            caching.save(path, {"features": i3d.features(network, clips, BATCH)})
        return load_file(path)["features"]


def _cached(cache: Cache, inputs: Inputs) -> Float[Tensor, "b d"] | None:
    with _entry(cache, inputs) as entry:
        return load_file(entry.path / FILE)["features"] if caching.whole(entry.path / FILE) else None


def _entry(cache: Cache, inputs: Inputs) -> Entry:
    return cache.entry("features", inputs, code.fingerprint(__file__))
