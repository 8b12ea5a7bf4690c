"""Moments of clips at the resolution of a training phase."""

import functools
from pathlib import Path

from components.datasets import latents, shards
from components.datasets.clips import ClipsManifest
from components.datasets.latents import LatentsManifest
from components.datasets.shards import read_manifest
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import plain
from components.telemetry.progress import say
from components.training.optimizer import Phase
from pipeline.encoding.moments import fill, key_of


def resized(phase: Phase, clips: Path, autoencoder: Path, whole: Path) -> Path:
    """Return the cached folder of the clips' moments at the resolution of a phase; encode them if it is missing.

    `whole` holds the moments at the clips' own resolution. Raise InputError if `whole` was made from other clips or by
    another VAE, or if the resolution does not fit the latents.
    """
    key, manifest = key_of(clips, autoencoder), read_manifest(LatentsManifest, whole)
    latents.refuse_stale(whole, manifest.key, key)
    _, channels, height, width = manifest.shape  # channels: mean and log variance
    assert phase.resolution is not None
    phase.latent_shape((channels // 2, height, width), read_manifest(ClipsManifest, clips).size)
    size = phase.resolution
    key = key.model_copy(update={"settings": {**key.settings, "resolution": list(size)}})

    def make(folder: Path) -> None:
        say(f"  encoding the clips at {size[0]} x {size[1]} pixels for a training phase")
        fill(clips, autoencoder, key, folder, size)

    is_whole = functools.partial(shards.whole, LatentsManifest)
    return Cache.here().product("resized-moments", plain(key), code.fingerprint(__file__), is_whole, make)
