"""Stage `preprocess`: video files to clips."""

import functools
from pathlib import Path

from components.config import Config
from components.data import clips, sources
from components.data.sources import DatasetConfig
from components.tracking import Run
from pipeline import cluster, stage


class Params(Config):
    """Which videos, and how they are cut."""

    dataset: DatasetConfig


def main(params: Params, *, out: Path, log: Run) -> dict[str, float]:
    """Clips in shards, where each comes from, and a report of rejected videos; equal input, equal bytes."""
    jobs = clips.jobs(sources.find(params.dataset), params.dataset)
    work = functools.partial(clips.write_shard, config=params.dataset, out=out.resolve())
    with cluster.connect(Path.cwd()):
        reports = cluster.map_tasks(work, jobs, label="cut clips", unit=f"shards of {params.dataset.shard} videos")
    try:
        metrics = clips.finish(out, reports, params.dataset)
    finally:
        for name in ("rejected.html", "rejected.json"):
            log.artifact(out / name, "rejected")
    opened = clips.Clips.open(out, "train")
    log.dataset(out.name.strip(".").removesuffix(".partial"), params.dataset.path, opened.hash, "clips")
    return metrics


if __name__ == "__main__":
    stage.run(main, rows="datasets")
