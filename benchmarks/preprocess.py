"""Frames and clips per second of preprocessing, against bare decord on the same files and number of processes.

`python -m benchmarks.preprocess FOLDER --counts 100 300 900` prints a table. Bare decord decodes every frame of every
file in order, in memory that is not copied, and discards it. Preprocessing reads the container's header and its key
frames, decodes, crops, resizes, cuts, hashes and writes. On a
machine with other load, only the share by CPU time is reliable.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch

from components.foundation import allocator
from components.sources import cutting, sources
from components.sources.cutting import ShardJob
from components.sources.sources import FolderConfig

CHUNK = 16  # frames per call; bare decord is fastest with 16


def decode(job: ShardJob) -> int:
    """Decode all videos of a job with decord alone, without copying a frame, and return the number of frames."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    count = 0
    for source in job.videos:
        reader = decord.VideoReader(str(source.path), num_threads=1)
        for start in range(0, len(reader), CHUNK):
            chunk = reader.get_batch(range(start, min(start + CHUNK, len(reader))))
            count += len(torch.from_dlpack(chunk.to_dlpack()))
    return count


def memory(_: int) -> float:
    """Return the peak resident set size of this process in MiB."""
    time.sleep(0.2)  # keeps the worker busy, so that the pool asks every worker
    return allocator.peak_memory()


def start_worker() -> None:
    """Use one thread per process, as in the stage."""
    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass over all jobs: wall-clock seconds, CPU seconds of all workers, and the result of each job."""

    seconds: float
    cpu_seconds: float
    results: list[Any]


def costed(work: Callable[[ShardJob], Any], job: ShardJob) -> tuple[float, Any]:
    """Run one job and return the CPU seconds of this process, over all threads, and the result."""
    began = time.process_time()
    result = work(job)
    return time.process_time() - began, result


def timed(pool: Executor, work: Callable[[ShardJob], Any], jobs: Sequence[ShardJob]) -> Turn:
    """Run all jobs once and time them."""
    began = time.perf_counter()
    done = list(pool.map(partial(costed, work), jobs))
    return Turn(time.perf_counter() - began, sum(cpu for cpu, _ in done), [result for _, result in done])


def measure(folder: Path, count: int, workers: int, repeats: int, side: int) -> dict[str, float]:
    """Measure decord and preprocessing in alternation, so that machine load affects both alike; return the medians."""
    config = FolderConfig(
        kind="folder",
        path=str(folder),
        split=sources.HashSplit(kind="hash", val=0.0, test=0.0),
        frames=17,
        stride=1,
        step=17,
        resolution=(side, side),
        shard=8,
        max_rejected=1.0,
        reader="auto",
        fps=None,
        words=None,
        actions=None,
    )
    jobs = cutting.jobs(sources.find(config).videos[:count], config)
    bare: list[Turn] = []
    ours: list[Turn] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker) as pool:
        list(pool.map(memory, range(workers)))  # wait until every worker has started
        for _ in range(repeats):
            bare.append(timed(pool, decode, jobs))
            with tempfile.TemporaryDirectory() as state:
                ours.append(timed(pool, partial(cutting.write_shard, config=config, state=Path(state)), jobs))
        peak = max(pool.map(memory, range(workers)))
    frames, clips = sum(bare[0].results), sum(len(report.clips) for report in ours[0].results)
    seconds = median(turn.seconds for turn in ours)
    pairs = list(zip(bare, ours, strict=True))
    return {
        "videos": sum(len(job.videos) for job in jobs),
        "frames": frames,
        "decord, frames/s": frames / median(turn.seconds for turn in bare),
        "ours, frames/s": frames / seconds,
        "ours, clips/s": clips / seconds,
        "share of decord": median(one.seconds / other.seconds for one, other in pairs),
        "share by CPU time": median(one.cpu_seconds / other.cpu_seconds for one, other in pairs),
        "CPU ms a frame": 1000 * median(turn.cpu_seconds for turn in ours) / frames,
        "seconds": seconds,
        "peak memory of a worker, MiB": peak,
    }


def main() -> None:
    """Print the table for the given numbers of files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 900])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=64, help="height and width of the clips in pixels")
    options = parser.parse_args()
    chosen = (options.workers, options.repeats, options.resolution)
    rows = [measure(options.folder, count, *chosen) for count in options.counts]
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda number: f"{number:.4g}"))


if __name__ == "__main__":
    main()
