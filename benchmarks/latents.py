"""Clips a second of encoding from the shards of clips to the shards of moments, against the bare encoder.

`python -m benchmarks.latents` makes random clips of the size that an autoencoder of params.yaml is for, and prints a
table. The bare encoder is given ready tensors of the same batches and its moments are dropped; ours reads, checks,
encodes, writes, and takes statistics. Both take turns, so that a busy machine is as busy for the one as for the other.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import clock, table
from benchmarks.table import Table
from components import heap
from components.autoencoders.coding import Coder
from components.autoencoders.interface import to_float
from components.autoencoders.trained import Described
from components.config import parse, read_yaml
from components.data import clips, latents, shards
from components.data.clips import Clips, ClipsManifest


def write_clips(folder: Path, count: int, frames: int, size: tuple[int, int]) -> Clips:
    """Random clips as preprocessing stores them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 256, (count, frames, 3, *size), generator=generator, dtype=torch.uint8)
    shard = shards.write_rows(folder, "train", 0, rows)
    index = shards.write_text(folder / clips.INDEX, "")
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
    """Seconds of a shard of moments, as the stage makes it."""
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
    """Seconds of the encoder alone."""
    began = clock.now(coder.device)
    with torch.autocast(coder.device.type, torch.bfloat16, enabled=coder.precision == "bfloat16"):
        for part in ready:
            coder.vae.encode(part)
    return clock.now(coder.device) - began


def measure(row: str, params: Path, count: int, repeats: int, device: torch.device) -> Table:
    """Both ways in turn; the share is the median over the turns."""
    config = parse(Described, {"autoencoder": read_yaml(params)["autoencoders"][row]}, where=str(params)).autoencoder
    coder = Coder(config.build().eval().to(device), device)
    with tempfile.TemporaryDirectory() as name:
        source = write_clips(Path(name) / "clips", count, config.frames, config.resolution)
        batch = coder.clips_at_once((1, config.frames, 3, *config.resolution))
        ready = [to_float(part).to(device) for part in source.read(range(count)).split(batch)]
        bare(coder, ready[:1])  # warms up
        turns = [(ours(coder, source, Path(name) / "out", batch), bare(coder, ready)) for _ in range(repeats)]
    rows: list[dict[str, table.Value]] = [
        {"": "clips to shards of moments", "clips/s": count / median(a for a, _ in turns)},
        {"": "bare encoder", "clips/s": count / median(b for _, b in turns)},
        {"": "share of the bare encoder", "clips/s": median(b / a for a, b in turns)},
    ]
    facts: dict[str, table.Value] = {"autoencoder": row, "clips": count, "batch": batch, "device": device.type}
    return Table("Latents", facts, ("", "clips/s"), rows)


def main() -> None:
    """The table for one autoencoder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", default="kuka-vae", help="an entry of the table autoencoders")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="a .md or .json file")
    given = parser.parse_args()
    heap.keep()  # as in every stage
    table.check_out(given.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = measure(given.row, given.params, given.clips, given.repeats, device)
    table.show(measured)
    if given.out:
        table.write(given.out, measured)


if __name__ == "__main__":
    main()
