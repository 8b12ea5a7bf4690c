"""Clips to moments, shard by shard: what the stage that fills the cache and the command that mends it share."""

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from components import checkpoint
from components.autoencoders import trained
from components.autoencoders.coding import Coder
from components.config import fingerprint, plain
from components.data import latents, shards, video, words
from components.data.clips import INDEX, Clips, ClipsManifest
from components.data.latents import LatentKey, Latents, LatentsManifest, ShardReport
from components.data.shards import SPLITS, Split, read_manifest
from components.errors import InputError
from components.training.optimizer import Phase
from pipeline import cluster
from pipeline.hands import spread
from pipeline.progress import say

STATE = Path(".state") / "latents"  # shards of a run that was stopped lie outside of every stage's outputs
RESIZED = Path(".state") / "resized"  # moments of clips at another resolution than their own
SHARD = 256  # clips
Size = tuple[int, int]  # height, width in pixels
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


def encoder(clips: Path, autoencoder: Path, out: Path, stamp: str, size: Size | None = None) -> Encode:
    """The work of one process: it keeps the VAE, and a batch of clips at a time, scaled to `size` if that is given."""
    device = cluster.device()
    coder = Coder(trained.load(autoencoder, device), device)
    opened = functools.cache(functools.partial(Clips.open, clips))

    def encode(piece: Piece) -> ShardReport:
        source = opened(piece.split)
        batch = coder.clips_at_once((1, source.frames, 3, *(size or source.size)))
        parts = []
        for start in piece.rows[::batch]:
            read = source.read(range(start, min(start + batch, piece.rows.stop)))
            if size is not None:
                read = video.fit(read.flatten(0, 1), size).unflatten(0, read.shape[:2])
            parts += [moments.cpu() for moments in coder.encode(read)]
        report = latents.write_shard(out, piece.split, piece.index, torch.cat(parts))
        latents.keep(out, report, stamp)
        return report

    return encode


def fill(
    clips: Path, autoencoder: Path, key: LatentKey, name: str, out: Path, size: Size | None = None
) -> dict[str, float]:
    """Makes a folder with the moments of all clips, scaled to `size` if that is given; returns how many and so on.

    Shards lie under `name` until all are there, so that a run that was stopped goes on.
    """
    stamp, made = stamp_of(key), read_manifest(ClipsManifest, clips)
    state = (STATE / name).resolve()
    work = pieces(made.counts)
    found = {piece: latents.finished(state, piece.split, piece.index, stamp) for piece in work}
    reports = [report for report in found.values() if report is not None]
    left = [piece for piece, report in found.items() if report is None]
    if reports:
        say(f"  {len(reports)} of {len(work)} shards are there from a run that was stopped")
    make = functools.partial(encoder, clips.resolve(), autoencoder.resolve(), state, stamp, size)
    total = sum(len(piece.rows) for piece in left)
    if left:
        with spread(Path.cwd()) as hands:
            reports += hands.map(
                make, left, count=lambda piece: len(piece.rows), total=total, label="encode", unit="clips"
            )
    for report in reports:
        shards.place(state / report.shard.file, out)
    metrics = latents.finish(out, reports, key, words.of(clips, made.files))
    shutil.rmtree(state)
    return metrics


def resized(phase: Phase, autoencoder: Path, whole: Path) -> Path:
    """The folder with the moments of the clips at the resolution of a phase, filled if it is not there.

    The clips are those that `whole`, the moments at their own resolution, was made of: through it DVC knows that a
    training depends on them, and `preprocess` leaves them near it. Raises InputError if they are gone or others.
    """
    clips = whole.resolve().parents[1] / "clips" / trained.description(autoencoder).dataset
    key, made = key_of(clips, autoencoder), read_manifest(LatentsManifest, whole)
    latents.refuse_stale(whole, made.key, key)
    _, numbers, height, width = made.shape
    assert phase.resolution is not None
    phase.latent((numbers // 2, height, width), read_manifest(ClipsManifest, clips).size)
    size = phase.resolution
    key = key.model_copy(update={"settings": {**key.settings, "resolution": list(size)}})
    folder = (RESIZED / fingerprint(key)).resolve()
    try:
        Latents.open(folder, "train", key).verify()
    except InputError:
        say(f"  the clips at {size[0]} x {size[1]} pixels, for a phase of the training")
        aside = folder.with_name(f"{folder.name}.partial")
        for old in (aside, folder):
            shutil.rmtree(old, ignore_errors=True)
        aside.mkdir(parents=True)
        fill(clips, autoencoder, key, folder.name, aside, size)
        aside.rename(folder)
    return folder
