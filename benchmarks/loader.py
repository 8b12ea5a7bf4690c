"""Clips a second of the training's loader, against a copy of the same bytes in memory.

`python -m benchmarks.loader` writes moments to a temporary folder, reads them as training does (shuffled, one batch
ahead), and prints a table; the first epoch compares every shard with its sha256, the later ones do not. The share
waited is that of a training step of so many milliseconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from components.data import latents
from components.data.latents import LatentKey, Latents
from components.data.loading import ReadAhead, sample_ids


def write(folder: Path, clips: int, shape: tuple[int, int, int, int], shard: int) -> None:
    """Random moments, stored as the cache stores them: so many to train on, and one to validate on."""
    generator = torch.Generator().manual_seed(0)
    reports = [
        latents.write_shard(folder, "train", index, torch.randn(min(shard, clips - start), *shape, generator=generator))
        for index, start in enumerate(range(0, clips, shard))
    ]
    reports.append(latents.write_shard(folder, "val", 0, torch.randn(1, *shape, generator=generator)))
    latents.finish(folder, reports, LatentKey(autoencoder="random", clips="random", settings={}))


def epoch(stored: Latents, batch: int, number: int, step_seconds: float) -> tuple[float, float]:
    """Seconds of an epoch, and the seconds of it that were spent waiting for a batch."""
    steps = len(stored) // batch

    def ids(step: int) -> tuple[int, ...]:
        return sample_ids(step, size=len(stored), batch=batch, seed=0)

    waited, began = 0.0, time.perf_counter()
    with ReadAhead(stored.moments, ids, range(number * steps, (number + 1) * steps)) as ahead:
        for _ in range(steps):
            asked = time.perf_counter()
            next(ahead)
            waited += time.perf_counter() - asked
            time.sleep(step_seconds)
    return time.perf_counter() - began, waited


def copy_seconds(stored: Latents, batch: int) -> float:
    """Seconds to copy the bytes of an epoch from memory to memory."""
    rows = stored.moments(range(batch))
    target = torch.empty_like(rows)
    began = time.perf_counter()
    for _ in range(len(stored) // batch):
        target.copy_(rows)
    return time.perf_counter() - began


def main() -> None:
    """One epoch through the reader, beside a copy of the same bytes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=4, default=[9, 16, 16, 16], help="frames, numbers, height, width")
    parser.add_argument("--milliseconds", type=float, default=50.0, help="a training step without its batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.clips, tuple(options.shape), 256)
        stored = Latents.open(Path(name), "train", None)
        rows = []
        for number, kind in enumerate(("first epoch", "second epoch", "with training steps")):
            seconds, waited = epoch(stored, options.batch, number, options.milliseconds / 1e3 if number == 2 else 0.0)
            share = waited / seconds
            rows.append({"": kind, "clips/s": options.clips / seconds, "seconds": seconds, "share waited": share})
        seconds = copy_seconds(stored, options.batch)
        rows.append({"": "copy in memory", "clips/s": options.clips / seconds, "seconds": seconds})
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda number: f"{number:.4g}"))


if __name__ == "__main__":
    main()
