"""Command `repair`: check the hash of every shard of clips or latents, and recompute only the damaged shards."""

import shutil
from pathlib import Path

from components.datasets import latents, shards
from components.datasets.clips import ClipsManifest
from components.datasets.latents import LatentsManifest
from components.datasets.shards import Manifest, Shard, read_manifest
from components.foundation.errors import InputError
from components.sources import cutting
from components.telemetry.progress import say, track
from pipeline.encoding import moments
from pipeline.encoding.moments import Encode, Piece


def run(clips: Path, videos: Path | None, autoencoder: Path | None, latents: Path | None, check: bool) -> None:
    """Repair clips from their videos, then latents from the clips; with `check`, only list the damaged shards.

    Raise InputError if neither videos nor latents are set, or if only one of latents and VAE is set.
    """
    if latents is None and autoencoder is None and videos is None:
        raise InputError(
            "nothing to repair; add --videos to repair clips, or --latents and --autoencoder to repair latents"
        )
    if (latents is None) != (autoencoder is None):
        missing = "--latents" if latents is None else "--autoencoder"
        raise InputError(f"{missing} is missing; to repair latents, use --latents and --autoencoder together")
    if videos is not None:
        repair_clips(clips, videos, check)
    if latents is not None and autoencoder is not None:
        repair_latents(clips, autoencoder, latents, check)


def repair_clips(folder: Path, videos: Path, check: bool) -> None:
    """Cut the damaged shards of a folder of clips again from the videos; with `check`, only list them.

    Raise InputError if a file other than a shard is damaged, or if the videos are missing or have changed.
    """
    manifest = read_manifest(ClipsManifest, folder)
    damaged = _list_damaged(folder, manifest)
    if check:
        return
    temporary = _temporary(folder)
    try:
        for shard in track(damaged, "cut clips", len(damaged), "shards"):
            shards.replace(temporary / cutting.repaired(folder, manifest, videos, shard, temporary).file, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """Return the folder for new shards, on the same file system as `folder`."""
    return folder.with_name(f".{folder.name}.repair")


def _list_damaged(folder: Path, manifest: Manifest) -> list[Shard]:
    damaged = shards.damaged(folder, manifest)
    say(f"{len(damaged)} of {len(manifest.shards)} shards in {folder} are damaged or missing")
    for shard in damaged:
        say(f"  {folder / shard.file}")
    return damaged


def repair_latents(clips: Path, autoencoder: Path, folder: Path, check: bool) -> None:
    """Encode the damaged shards of a folder of latents again from their clips; with `check`, only list the shards.

    Raise InputError if the latents are of other clips or of another VAE, if a file other than a shard is damaged, or if
    the hash of a new shard differs from the manifest.
    """
    manifest = read_manifest(LatentsManifest, folder)
    key = moments.key_of(clips, autoencoder)
    latents.refuse_stale(folder, manifest.key, key)
    damaged = _list_damaged(folder, manifest)
    if check or not damaged:
        return
    pieces = {(piece.split, piece.index): piece for piece in moments.pieces(manifest.counts)}
    temporary = _temporary(folder)
    encode = moments.encoder(clips, autoencoder, temporary)
    try:
        for shard in track(damaged, "encode", len(damaged), "shards"):
            _replace(folder, shard, encode, pieces[shard.split, shard.index])
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, shard: Shard, encode: Encode, piece: Piece) -> None:
    new = encode(piece).shard
    if new.sha256 != shard.sha256:
        raise InputError(
            f"cannot repair {folder / shard.file}: the new shard has another hash, which can happen on another machine "
            "or with another number of threads; run `dvc repro --force cache_latents`"
        )
    shards.replace(_temporary(folder) / new.file, folder)
