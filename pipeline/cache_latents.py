"""Stage `cache_latents`: clips and a VAE to moments."""

from pathlib import Path

import torch
from pydantic import JsonValue

from components import checkpoint
from components.autoencoders import trained
from components.autoencoders.coding import Coder
from components.autoencoders.kinds import AutoencoderConfig
from components.config import Config
from components.data import latents
from components.data.clips import INDEX, Clips, ClipsManifest
from components.data.latents import LatentKey
from components.data.shards import SPLITS, read_manifest
from components.tracking import Run
from pipeline import cluster, stage
from pipeline.progress import meter

SHARD = 256  # clips


class Params(Config):
    """Nothing that the trained VAE does not say itself; named so that another VAE means other latents."""

    autoencoder: AutoencoderConfig


@torch.no_grad()
def main(params: Params, *, clips: Path, autoencoder: Path, out: Path, log: Run) -> dict[str, float]:
    """The moments of every clip in shards, with the mean and standard deviation of each channel beside them."""
    device = cluster.device()
    coder = Coder(trained.load(autoencoder, device), device)
    train = Clips.open(clips, "train")
    manifest = read_manifest(ClipsManifest, clips)
    # the clips' hash covers both; they stand here too so that a stale cache can say what differs
    settings: dict[str, JsonValue] = {
        "preprocessing": manifest.cut,
        "plan": manifest.files[INDEX],
        "precision": coder.precision,
    }
    key = LatentKey(autoencoder=checkpoint.identity(autoencoder), clips=train.hash, settings=settings)
    counts = manifest.counts
    reports = []
    with meter("encode", sum(counts.values()), "clips") as shown:
        for split in SPLITS:
            if not counts[split]:
                continue
            opened = Clips.open(clips, split)
            for index, start in enumerate(range(0, len(opened), SHARD)):
                rows = range(start, min(start + SHARD, len(opened)))
                parts = []
                for part in coder.encode(opened.read(rows)):
                    parts.append(part.cpu())
                    shown.advance(len(part))
                reports.append(latents.write_shard(out, split, index, torch.cat(parts)))
    metrics = latents.finish(out, reports, key)
    log.dataset(params.autoencoder.dataset, str(clips), train.hash, "encoding")
    return metrics


if __name__ == "__main__":
    stage.run(main, rows="autoencoders")
