"""Clips per second of the stage that encodes shards of clips to shards of moments, against the bare encoder.

`python -m benchmarks.latents` makes random clips of the size of an autoencoder in params.yaml and prints a table. The
stage reads, checks, encodes, writes and computes statistics. The bare encoder gets the same batches as ready tensors
and discards its moments. Measurements alternate, so that changes in machine load affect both alike.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import clock, table
from benchmarks.table import Table
from components.datasets import clips, latents, shards
from components.datasets.clips import Clips, ClipsManifest
from components.foundation import allocator
from components.foundation.config import parse
from components.foundation.files import write_text
from components.foundation.settings import presets
from components.nn.autoencoders.coding import Coder
from components.nn.autoencoders.interface import to_float
from components.nn.autoencoders.serialization import VAEDescription


def write_clips(folder: Path, count: int, frames: int, size: tuple[int, int]) -> Clips:
    """Write random clips in the format of preprocessing and open them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 256, (count, frames, 3, *size), generator=generator, dtype=torch.uint8)
    shard = shards.write_rows(folder, "train", 0, rows)
    index = write_text(folder / clips.INDEX, "")
    manifest = ClipsManifest(
        shards=(shard,),
        counts={"train": count, "val": 0, "test": 0},
        files={clips.INDEX: index},
        frames=frames,
        size=size,
        channels="rgb",
        cut={},
    )
    shards.write_manifest(folder, manifest)
    return Clips.open(folder, "train")


def ours(coder: Coder, source: Clips, out: Path, batch: int) -> float:
    """Return the seconds to encode and write one shard of moments, as in the stage."""
    began = clock.now(coder.device)
    parts = [
        moments.cpu()
        for start in range(0, len(source), batch)
        for moments in coder.encode(source.read(range(start, min(start + batch, len(source)))))
    ]
    latents.write_shard(out, "train", 0, torch.cat(parts))
    return clock.now(coder.device) - began


@torch.no_grad()
def bare(coder: Coder, ready: list[torch.Tensor]) -> float:
    """Return the seconds of the encoder alone on ready batches."""
    began = clock.now(coder.device)
    with torch.autocast(coder.device.type, torch.bfloat16, enabled=coder.precision == "bfloat16"):
        for part in ready:
            coder.vae.encode(part)
    return clock.now(coder.device) - began


def measure(row: str, params: Path, count: int, repeats: int, device: torch.device) -> Table:
    """Measure both `repeats` times in alternation; the share is the median over the repeats."""
    config = parse(
        VAEDescription, {"autoencoder": presets.read(params)["autoencoders"][row]}, where=str(params)
    ).autoencoder
    coder = Coder(config.build().eval().to(device), device)
    with tempfile.TemporaryDirectory() as name:
        source = write_clips(Path(name) / "clips", count, config.frames, config.resolution)
        batch = coder.batch_size((1, config.frames, 3, *config.resolution))
        ready = [to_float(part).to(device) for part in source.read(range(count)).split(batch)]
        bare(coder, ready[:1])  # warm-up
        turns = [(ours(coder, source, Path(name) / "out", batch), bare(coder, ready)) for _ in range(repeats)]
    rows: list[dict[str, table.Value]] = [
        {"": "clips to shards of moments", "clips/s": count / median(a for a, _ in turns)},
        {"": "bare encoder", "clips/s": count / median(b for _, b in turns)},
        {"": "share of the bare encoder", "clips/s": median(b / a for a, b in turns)},
    ]
    facts: dict[str, table.Value] = {"autoencoder": row, "clips": count, "batch": batch, "device": device.type}
    return Table("Latents", facts, ("", "clips/s"), rows)


def main() -> None:
    """Print the table for one autoencoder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", default="kuka-vae", help="a row of autoencoders in the params file")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="a .md or .json file")
    given = parser.parse_args()
    allocator.keep()  # same allocator settings as in every stage
    table.check_out(given.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = measure(given.row, given.params, given.clips, given.repeats, device)
    table.show(measured)
    if given.out:
        table.write(given.out, measured)


if __name__ == "__main__":
    main()
