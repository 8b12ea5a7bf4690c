"""Stage `cache_latents`: clips and a VAE to moments."""

import functools
import shutil
from pathlib import Path

from components.autoencoders.kinds import AutoencoderConfig
from components.config import Config
from components.data import latents, shards, words
from components.data.clips import ClipsManifest
from components.data.shards import read_manifest
from components.tracking import Run
from pipeline import encoding, stage
from pipeline.hands import spread
from pipeline.progress import say

STATE = Path(".state") / "latents"  # shards of a run that was stopped lie outside of every stage's outputs


class Params(Config):
    """Nothing that the trained VAE does not say itself; named so that another VAE means other latents."""

    autoencoder: AutoencoderConfig


def main(params: Params, *, clips: Path, autoencoder: Path, out: Path, log: Run) -> dict[str, float]:
    """The moments of every clip in shards, with the mean and standard deviation of each channel beside them."""
    key, made = encoding.key_of(clips, autoencoder), read_manifest(ClipsManifest, clips)
    stamp = encoding.stamp_of(key)
    state = (STATE / out.name.strip(".").removesuffix(".partial")).resolve()
    work = encoding.pieces(made.counts)
    found = {piece: latents.finished(state, piece.split, piece.index, stamp) for piece in work}
    reports = [report for report in found.values() if report is not None]
    left = [piece for piece, report in found.items() if report is None]
    if reports:
        say(f"  {len(reports)} of {len(work)} shards are there from a run that was stopped")
    make = functools.partial(encoding.encoder, clips.resolve(), autoencoder.resolve(), state, stamp)
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
    log.dataset(params.autoencoder.dataset, str(clips), key.clips, "encoding")
    return metrics


if __name__ == "__main__":
    stage.run(main, rows="autoencoders")
