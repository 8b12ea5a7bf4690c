"""Clips to moments, shard by shard: what the stage that fills the cache and the command that mends it share."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from components import checkpoint
from components.autoencoders import trained
from components.autoencoders.coding import Coder
from components.config import fingerprint, plain
from components.data import latents
from components.data.clips import INDEX, Clips, ClipsManifest
from components.data.latents import LatentKey, ShardReport
from components.data.shards import SPLITS, Split, read_manifest
from pipeline import cluster

SHARD = 256  # clips
Encode = Callable[["Piece"], ShardReport]


@dataclass(frozen=True, slots=True)
class Piece:
    """The clips of one shard of moments: one independent piece of work."""

    split: Split
    index: int
    rows: range


def pieces(counts: Mapping[Split, int]) -> list[Piece]:
    """All the work, in the order of the shards."""
    return [
        Piece(split, index, range(start, min(start + SHARD, counts[split])))
        for split in SPLITS
        for index, start in enumerate(range(0, counts[split], SHARD))
    ]


def key_of(clips: Path, autoencoder: Path) -> LatentKey:
    """What the moments of these clips by this VAE depend on."""
    manifest = read_manifest(ClipsManifest, clips)
    # the clips' hash covers the first two; they stand here too so that a stale cache can say what differs
    return LatentKey(
        autoencoder=checkpoint.identity(autoencoder),
        clips=manifest.hash,
        settings={
            "preprocessing": manifest.cut,
            "plan": manifest.files[INDEX],
            "precision": trained.description(autoencoder).precision,
        },
    )


def stamp_of(key: LatentKey) -> str:
    """What a finished shard is told by: its key, the code that made it and how many clips it holds."""
    files = sorted((Path(__file__).parents[1] / "components").rglob("*.py"))
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    return fingerprint({"key": plain(key), "code": code, "shard": SHARD})


def encoder(clips: Path, autoencoder: Path, out: Path, stamp: str) -> Encode:
    """The work of one process: it keeps the VAE, and a batch of clips at a time."""
    device = cluster.device()
    coder = Coder(trained.load(autoencoder, device), device)
    opened = functools.cache(functools.partial(Clips.open, clips))

    def encode(piece: Piece) -> ShardReport:
        source = opened(piece.split)
        batch = coder.clips_at_once((1, source.frames, 3, *source.size))
        parts = [
            moments.cpu()
            for start in piece.rows[::batch]
            for moments in coder.encode(source.read(range(start, min(start + batch, piece.rows.stop))))
        ]
        report = latents.write_shard(out, piece.split, piece.index, torch.cat(parts))
        latents.keep(out, report, stamp)
        return report

    return encode
