"""Command `repair`: looks at every byte of clips or cached latents and makes damaged shards again, and no others."""

import argparse
import shutil
from pathlib import Path

from components.data import cutting, latents, shards
from components.data.clips import ClipsManifest
from components.data.latents import LatentsManifest
from components.data.shards import Manifest, Shard, read_manifest
from components.errors import InputError
from pipeline import encoding, stage
from pipeline.encoding import Encode, Piece
from pipeline.progress import say, track


def main() -> None:
    """Names damaged and missing shards of clips or of cached latents, and makes them again."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.repair", description=main.__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="the folder of clips, such as data/clips/kuka")
    parser.add_argument(
        "--videos", type=Path, help="what they were cut from, such as data/videos/kuka: mends the clips"
    )
    parser.add_argument("--autoencoder", type=Path, help="such as data/autoencoders/kuka-vae")
    parser.add_argument("--latents", type=Path, help="such as data/latents/kuka-vae: mends these, out of the clips")
    parser.add_argument("--check", action="store_true", help="only say what is damaged")
    given = parser.parse_args()
    if not given.videos and not given.latents:
        parser.error("name --videos to mend the clips, or --latents and --autoencoder to mend the latents")
    if bool(given.latents) != bool(given.autoencoder):
        parser.error("--latents and --autoencoder go together")
    with stage.command():
        if given.videos:
            repair_clips(given.clips, given.videos, given.check)
        if given.latents:
            repair(given.clips, given.autoencoder, given.latents, given.check)


def repair_clips(folder: Path, videos: Path, check: bool) -> None:
    """Raises InputError: what is damaged is no shard, or the videos are not those that the clips were cut from."""
    manifest = read_manifest(ClipsManifest, folder)
    damaged = _damaged(folder, manifest)
    if check:
        return
    aside = folder.with_name(f".{folder.name}.repair")
    try:
        for shard in track(damaged, "cut clips", len(damaged), "shards"):
            shards.replace(aside / cutting.repaired(folder, manifest, videos, shard, aside).file, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _damaged(folder: Path, manifest: Manifest) -> list[Shard]:
    found = shards.damaged(folder, manifest)
    say(f"{len(found)} of {len(manifest.shards)} shards in {folder} are damaged or missing")
    for shard in found:
        say(f"  {folder / shard.file}")
    return found


def repair(clips: Path, autoencoder: Path, folder: Path, check: bool) -> None:
    """Raises InputError: latents of other clips or another VAE, what is damaged is no shard, it comes out otherwise."""
    manifest = read_manifest(LatentsManifest, folder)
    key = encoding.key_of(clips, autoencoder)
    latents.refuse_stale(folder, manifest.key, key)
    damaged = _damaged(folder, manifest)
    if check or not damaged:
        return
    work = {(piece.split, piece.index): piece for piece in encoding.pieces(manifest.counts)}
    aside = folder.with_name(f".{folder.name}.repair")
    encode = encoding.encoder(clips, autoencoder, aside, encoding.stamp_of(key))
    try:
        for shard in track(damaged, "encode", len(damaged), "shards"):
            _replace(folder, shard, encode, work[shard.split, shard.index])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(folder: Path, shard: Shard, encode: Encode, piece: Piece) -> None:
    made = encode(piece).shard
    if made.sha256 != shard.sha256:
        raise InputError(
            f"{folder / shard.file} comes out otherwise than it was, as it may on another machine or another number of "
            "threads; run `dvc repro --force` for the stage cache_latents"
        )
    shards.replace(folder.with_name(f".{folder.name}.repair") / made.file, folder)


if __name__ == "__main__":
    main()
