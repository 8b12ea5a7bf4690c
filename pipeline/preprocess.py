"""Stage `preprocess`: video files to clips."""

import functools
import shutil
from pathlib import Path

from components.config import Config
from components.data import clips, cutting, sources, words
from components.data.sources import AnyDataset
from components.tracking import Run
from pipeline import cluster, stage
from pipeline.progress import say

STATE = Path(".state") / "preprocess"  # shards of a run that was stopped lie outside of every stage's outputs


class Params(Config):
    """Which videos, and how they are cut."""

    dataset: AnyDataset


def main(params: Params, *, out: Path, log: Run) -> dict[str, float]:
    """Clips in shards, where each comes from, and a report of rejected videos; equal input, equal bytes."""
    dataset, name = params.dataset, out.name.strip(".").removesuffix(".partial")
    found = sources.find(dataset)
    about = None
    if dataset.words is not None:
        others = {finding.video for finding in (*found.missing, *found.left_out)}
        about = words.read(dataset.folder / dataset.words, {source.name for source in found.videos}, others)
    state = (STATE / name).resolve()
    jobs = cutting.jobs(found.videos, dataset)
    reports = [report for job in jobs if (report := cutting.finished(job, dataset, state))]
    known = {(report.split, report.index) for report in reports}
    left = [job for job in jobs if (job.split, job.index) not in known]
    if reports:
        say(f"  {len(reports)} of {len(jobs)} shards are there from a run that was stopped")
    work = functools.partial(cutting.write_shard, config=dataset, state=state)
    if left:
        with cluster.connect(Path.cwd()):
            reports += cluster.map_tasks(work, left, label="cut clips", unit=f"shards of {dataset.shard} videos")
    try:
        metrics = cutting.finish(out, state, reports, found, dataset, about)
    finally:
        for file in ("rejected.html", "rejected.json"):
            log.artifact(out / file, "rejected")
    shutil.rmtree(state)
    opened = clips.Clips.open(out, "train")
    log.dataset(name, dataset.path, opened.hash, "clips")
    return metrics


if __name__ == "__main__":
    stage.run(main, rows="datasets")
