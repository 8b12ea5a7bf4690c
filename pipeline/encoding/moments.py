"""Encode clips to moments, shard by shard, for the stage `cache_latents`, training phases and the command `repair`."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from components.datasets import annotations, latents, resizing, shards
from components.datasets.clips import INDEX, Clips, ClipsManifest
from components.datasets.latents import LatentKey, ShardReport
from components.datasets.shards import SPLITS, Split, read_manifest
from components.foundation import checkpoint, devices
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import plain
from components.nn.autoencoders import serialization
from components.nn.autoencoders.coding import Coder
from components.telemetry.progress import say
from pipeline.runtime import ray_map

SHARD = 256  # clips per shard
Size = tuple[int, int]  # height, width in pixels
Encode = Callable[["Piece"], ShardReport]


@dataclass(frozen=True, slots=True)
class Piece:
    """Split, index and clips (rows of the split) of one shard of moments."""

    split: Split
    index: int
    rows: range


def pieces(counts: Mapping[Split, int]) -> list[Piece]:
    """Return all shards of clips with these counts per split, in order."""
    return [
        Piece(split, index, range(start, min(start + SHARD, counts[split])))
        for split in SPLITS
        for index, start in enumerate(range(0, counts[split], SHARD))
    ]


def key_of(clips: Path, autoencoder: Path) -> LatentKey:
    """Return the cache key of the moments of these clips, encoded by this VAE."""
    manifest = read_manifest(ClipsManifest, clips)
    # the clips' hash covers preprocessing and plan; separate, so that an error can name the difference
    return LatentKey(
        autoencoder=checkpoint.identity(autoencoder),
        clips=manifest.hash,
        settings={
            "preprocessing": manifest.cut,
            "plan": manifest.files[INDEX],
            "precision": serialization.description(autoencoder).precision,
        },
    )


def encoder(clips: Path, autoencoder: Path, out: Path, size: Size | None = None) -> Encode:
    """Load the VAE and return a function that encodes one shard, writes it to `out` and returns its report.

    Clips are scaled to `size` unless it is None, and encoded in batches that fit into memory.
    """
    device = devices.device()
    coder = Coder(serialization.load(autoencoder, device), device)
    open_split = functools.cache(functools.partial(Clips.open, clips))

    def encode(piece: Piece) -> ShardReport:
        source = open_split(piece.split)
        batch = coder.batch_size((1, source.frames, 3, *(size or source.size)))
        parts = []
        for start in piece.rows[::batch]:
            pixels = source.read(range(start, min(start + batch, piece.rows.stop)))
            if size is not None:
                pixels = resizing.fit(pixels.flatten(0, 1), size).unflatten(0, pixels.shape[:2])
            parts += [moments.cpu() for moments in coder.encode(pixels)]
        report = latents.write_shard(out, piece.split, piece.index, torch.cat(parts))
        latents.keep(out, report)
        return report

    return encode


def fill(clips: Path, autoencoder: Path, key: LatentKey, out: Path, size: Size | None = None) -> dict[str, float]:
    """Write the moments of all clips into the folder `out`; return the metrics of the stage.

    Clips are scaled to `size` unless it is None. Shards stay in the cache until all are finished, so that an
    interrupted run resumes. Raise InputError if a folder cannot be read or written.
    """
    manifest = read_manifest(ClipsManifest, clips)
    entry = Cache.here().entry("moments", {"key": plain(key), "shard": SHARD}, code.fingerprint(__file__))
    state = entry.path
    cached = {piece: latents.finished(state, piece.split, piece.index) for piece in pieces(manifest.counts)}
    reports = [report for report in cached.values() if report is not None]
    remaining = [piece for piece, report in cached.items() if report is None]
    if reports:
        say(f"  {len(reports)} of {len(cached)} shards were finished by an interrupted run")
    load = functools.partial(encoder, clips.resolve(), autoencoder.resolve(), state, size)
    total = sum(len(piece.rows) for piece in remaining)
    if remaining:
        with ray_map.connect(Path.cwd(), num_cpus=ray_map.NETWORK_CPUS, use_gpu=True) as parallel:
            reports += parallel(
                load, remaining, total=total, label="encode", unit="clips", size=lambda piece: len(piece.rows)
            )
    for report in reports:
        shards.place(state / report.shard.file, out)
    # the channels of a VAE with a linear path share one scale, which standardising must preserve
    one_scale = getattr(serialization.description(autoencoder), "linear", None) is not None
    carried = annotations.carry(clips, manifest.files, out)
    metrics = latents.finish(out, reports, key, carried, one_scale=one_scale)
    entry.remove()
    return metrics
