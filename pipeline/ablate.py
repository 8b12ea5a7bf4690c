"""Stage `ablate`: sample trained models with several sampler settings and compare their FVD (Figure 3)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from components.datasets.clips import Clips
from components.datasets.selection import evaluation_clips
from components.foundation import checkpoint
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, plain
from components.foundation.errors import InputError
from components.metrics.distances.fvd import ProtocolConfig
from components.sampling.frame import SamplerConfig
from components.telemetry.tracking import Run
from pipeline.monitoring import nodes
from pipeline.runtime import cluster, stage
from pipeline.tuning import figures, sampler_trials, trials
from pipeline.tuning.ablation import AblationConfig, Point, points
from pipeline.tuning.sampler_trials import AblationInputs, Folders, Scoring, ablation_trial


class Params(Config):
    """The arms, the sampler whose settings the arms vary, and the evaluation protocol."""

    ablation: AblationConfig
    sampler: SamplerConfig
    protocol: ProtocolConfig


def main(
    params: Params,
    *,
    clips: Path,
    autoencoder: Path,
    experiment: Path,
    baseline: Path,
    weights: Path,
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Write a table of the FVD of all points and of the differences between arms, with intervals, and its figure.

    Raise InputError if the clips are too short, protocol.start is not first, or every point fails.
    """
    protocol, needed = params.protocol, params.protocol.context + params.protocol.frames
    all_points = points(params.ablation, params.sampler)
    models = {params.ablation.experiment: experiment, params.ablation.baseline: baseline}
    identities = {row: checkpoint.identity(model) for row, model in models.items()}
    test = Clips.open(clips, "test")
    if protocol.start == "random":
        raise InputError(
            f"the protocol {protocol.name} has start random, which an ablation does not support; set start to first"
        )
    if test.frames < needed:
        raise InputError(
            f"the protocol {protocol.name} needs clips of {needed} frames, but those in {clips} have {test.frames}; "
            "lower protocol.frames, or cut longer clips"
        )
    chosen, _ = evaluation_clips([test.name(index) for index in range(len(test))], protocol.clips)
    inputs = {"params": plain(params), "clips": test.hash, "chosen": chosen, "models": identities}
    entry = Cache.here().entry("ablation", inputs, code.fingerprint(sampler_trials.__file__, trials.__file__))
    folders = Folders(experiment.resolve(), autoencoder.resolve(), weights.resolve(), Cache.here())
    first = Scoring.of(params.sampler, protocol, folders, test, chosen, log.handle, protocol.futures)
    scorings = {
        row: dataclasses.replace(first, folders=dataclasses.replace(first.folders, model=model.resolve()))
        for row, model in models.items()
    }
    shared = AblationInputs(all_points, scorings, entry.path / "features")
    with cluster.connect(Path.cwd()), nodes.watched(log.handle):
        rows = trials.search(
            ablation_trial,
            [{"point": index} for index in range(len(all_points))],
            shared,
            storage=entry.path,
            name="trials",
            concurrent=params.ablation.concurrent,
            label="points",
        )
    metrics = write_results(params, rows, shared, out, log)
    entry.remove()
    return metrics


def write_results(
    params: Params, rows: list[dict[str, Any]], shared: AblationInputs, out: Path, log: Run
) -> dict[str, float]:
    """Write the table and the figure, and return the stage's metrics. Raise InputError if every point failed."""
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError("every point of the ablation failed; see the errors above")
    lines = [table_row(shared.points[row["point"]], row) | shared.difference(row["point"]) for row in rows]
    table = pd.DataFrame(lines)
    table.to_csv(out / "table.csv", index=False, lineterminator="\n")
    (out / "figure.png").write_bytes(figures.ablation(table, params.ablation.along))
    (out / "protocol.txt").write_text(params.protocol.describe() + "\n", encoding="utf-8")
    log.artifact(out)
    return {
        "points": float(len(rows)),
        "points_failed": float(len(rows) - len(finished)),
        "fvd_best": min(row["fvd"] for row in finished),
    }


def table_row(point: Point, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table: the point's arm, experiment, sampler settings, score and status."""
    measured = ("fvd", "fvd_low", "fvd_high", "milliseconds_per_frame", "status")
    settings = {"arm": point.arm, "experiment": point.experiment, **plain(point.sampler)}
    return settings | {name: row.get(name) for name in measured}


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="ablations", check=problems.before_stage)
