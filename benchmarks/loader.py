"""Clips per second of the training data loader, against a copy of the same bytes in memory.

`python -m benchmarks.loader` writes moments to a temporary folder, reads them as training does (shuffled, one batch
ahead) and prints a table. Only the first epoch verifies the sha256 of every shard. The last epoch sleeps for
`--milliseconds` per step in place of training. `share waited` is the share of an epoch spent waiting for a batch.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from components.datasets import latents
from components.datasets.latents import LatentKey, Latents
from components.datasets.loading import ReadAhead, sample_ids


def write(folder: Path, clips: int, shape: tuple[int, int, int, int], shard: int) -> None:
    """Write a cache of random moments: `clips` for training, in shards of `shard` clips, and one for validation."""
    generator = torch.Generator().manual_seed(0)
    reports = [
        latents.write_shard(folder, "train", index, torch.randn(min(shard, clips - start), *shape, generator=generator))
        for index, start in enumerate(range(0, clips, shard))
    ]
    reports.append(latents.write_shard(folder, "val", 0, torch.randn(1, *shape, generator=generator)))
    latents.finish(folder, reports, LatentKey(autoencoder="random", clips="random", settings={}), {})


def epoch(stored: Latents, batch: int, number: int, step_seconds: float) -> tuple[float, float]:
    """Return the seconds of an epoch and the seconds spent waiting for batches."""
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
    """Return the seconds to copy the bytes of an epoch within memory."""
    rows = stored.moments(range(batch))
    target = torch.empty_like(rows)
    began = time.perf_counter()
    for _ in range(len(stored) // batch):
        target.copy_(rows)
    return time.perf_counter() - began


def main() -> None:
    """Print the table: three epochs through the loader and a copy of the same bytes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=4, default=[9, 16, 16, 16], help="frames, channels, height, width")
    parser.add_argument("--milliseconds", type=float, default=50.0, help="duration of the simulated training step")
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
