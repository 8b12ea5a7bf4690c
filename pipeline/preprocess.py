"""Stage `preprocess`: cut video files into clips."""

import functools
from pathlib import Path
from typing import Final

from components.datasets import actions, captions, clips
from components.foundation.config import Config
from components.sources import cutting, sources
from components.sources.sources import AnyDataset
from components.telemetry.progress import say
from components.telemetry.tracking import Run
from pipeline.runtime import ray_map, stage

HEADLINES: Final = ("clips_train", "clips_val", "clips_test", "videos_rejected")  # for `dvc metrics`


class Params(Config):
    """The data set: its videos, and the settings for cutting them into clips."""

    dataset: AnyDataset


def main(params: Params, *, out: Path, log: Run) -> dict[str, float]:
    """Write clips in shards, an index of their source videos and a report of rejected videos.

    The same videos and settings give the same bytes. Raise InputError if the videos, captions or actions are missing
    or invalid, or if too many videos are rejected.
    """
    dataset, name = params.dataset, out.name.strip(".").removesuffix(".partial")
    found = sources.find(dataset)
    caption_table, action_table = None, None
    videos = {source.name for source in found.videos}
    others = {finding.video for finding in (*found.missing, *found.left_out)}
    if dataset.words is not None:
        caption_table = captions.read(dataset.inside(dataset.words), videos, others)
    if dataset.actions is not None:
        action_table = actions.matched(actions.read(dataset.inside(dataset.actions)), videos, others)
    entry = cutting.entry(dataset)
    state = entry.path
    jobs = cutting.jobs(found.videos, dataset)
    reports = [report for job in jobs if (report := cutting.finished(job, dataset, state))]
    finished = {(report.split, report.index) for report in reports}
    remaining = [job for job in jobs if (job.split, job.index) not in finished]
    if reports:
        say(f"  resuming an interrupted run: {len(reports)} of {len(jobs)} shards are complete")
    work = functools.partial(cutting.write_shard, config=dataset, state=state)
    if remaining:
        with ray_map.connect(Path.cwd(), num_cpus=1, use_gpu=False) as parallel:
            unit = f"shards of {dataset.shard} videos"
            reports += parallel(lambda: work, remaining, total=len(remaining), label="cut clips", unit=unit)
    try:
        metrics = cutting.finish(out, state, reports, found, dataset, caption_table, action_table)
    finally:
        for file in ("rejected.html", "rejected.json"):
            log.artifact(out / file, "rejected")
    entry.remove()
    log.dataset(name, dataset.path, clips.Clips.open(out, "train").hash, "clips")
    return metrics


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="datasets", check=problems.before_stage, headlines=HEADLINES)
