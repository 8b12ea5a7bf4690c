"""Stage `ablate`: trained models sampled by several settings, scored side by side: the paper's Figure 3."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from components import checkpoint
from components.config import Config, fingerprint, plain
from components.data.clips import Clips
from components.data.selection import evaluation_clips
from components.errors import InputError
from components.metrics import fvd
from components.metrics.fvd import ProtocolConfig
from components.reporting import figures
from components.sampling.ablation import AblationConfig, Point, points
from components.sampling.frame import SamplerConfig
from components.tracking import Run, RunHandle
from pipeline import cluster, stage, trials
from pipeline.features import Features
from pipeline.predictor import Predictor

BATCH = 16  # clips
STATE = Path(".state")


class Params(Config):
    """The arms, the samplers that they begin with, and the protocol that scores them."""

    ablation: AblationConfig
    samplers: dict[str, SamplerConfig]
    protocol: ProtocolConfig


@dataclass(frozen=True, slots=True)
class Shared:
    """What all points have in common: equal clips, equal chance, so that differences are the settings'."""

    points: list[Point]
    models: Path
    autoencoder: Path
    weights: Path
    kept: Path  # features of the points that were scored
    cache: Path
    protocol: ProtocolConfig
    context: Tensor
    words: list[str] | None  # what the clips are about, where it is known
    real: Tensor  # features
    log: RunHandle


def trial(number: int, setting: Mapping[str, Any], shared: Shared) -> dict[str, float]:
    """FVD with its interval and the time that a frame took, for one point; its features are kept."""
    device, protocol = cluster.device(), shared.protocol
    point = shared.points[setting["point"]]
    with shared.log.child(point.name, {"arm": point.arm, **plain(point.sampler)}) as log:
        loaded = Predictor.load(shared.models / point.experiment, shared.autoencoder, device)
        contexts = shared.context.repeat_interleave(protocol.futures, dim=0)
        began = time.perf_counter()
        about = shared.words and [one for one in shared.words for _ in range(protocol.futures)]
        predictions = loaded.batches(contexts, protocol.frames, protocol.seed, point.sampler, BATCH, about)
        clips = torch.cat([prediction.clips for prediction in predictions])[:, protocol.context :]
        milliseconds = 1000 * (time.perf_counter() - began) / (len(clips) * protocol.frames)
        features = Features(shared.weights, device, shared.cache, protocol.resolution)
        fake = features.of(fvd.scored(shared.context, clips, protocol), "samples")
        checkpoint.save_weights(shared.kept / f"{setting['point']}.safetensors", {"features": fake})
        score = fvd.score(shared.real, fake, protocol.resamples)
        metrics = {"fvd": score.value, "milliseconds_per_frame": milliseconds}
        metrics |= {f"fvd_{end}": value for end in ("low", "high") if (value := getattr(score, end)) is not None}
        log.metrics(metrics)
    return metrics


def main(
    params: Params, *, clips: Path, autoencoder: Path, models: Path, weights: Path, out: Path, log: Run
) -> dict[str, float]:
    """The table of all points with intervals, also of the differences between arms, and its figure."""
    protocol, given = params.protocol, params.protocol.context
    several = points(params.ablation, params.samplers)
    for row in sorted({point.experiment for point in several}):
        checkpoint.identity(models / row)
    test = Clips.open(clips, "test")
    if protocol.start == "random" or test.frames < given + protocol.frames:
        raise InputError(
            f"an ablation needs protocol.start first, and clips of {given + protocol.frames} frames at least; "
            f"these have {test.frames}, and the protocol {protocol.name} starts at {protocol.start}"
        )
    chosen, _ = evaluation_clips([test.name(index) for index in range(len(test))], protocol.clips)
    truth = test.read(chosen)[:, : given + protocol.frames]
    cache = STATE.resolve() / "features"
    features = Features(weights, cluster.device(), cache, protocol.resolution)
    real = features.of(fvd.scored(truth[:, :given], truth[:, given:], protocol), "test clips")
    facts = {
        "params": fingerprint(params),
        "clips": test.hash,
        "models": {point.experiment: checkpoint.identity(models / point.experiment) for point in several},
    }
    name = f"ablation-{fingerprint(facts)}"
    folders = (models.resolve(), autoencoder.resolve(), weights.resolve(), STATE.resolve() / "ablations" / name)
    shared = Shared(several, *folders, cache, protocol, truth[:, :given], test.words(chosen), real, log.handle)
    with cluster.connect(Path.cwd()):
        rows = trials.search(
            trial,
            [{"point": place} for place in range(len(several))],
            shared,
            storage=STATE / "searches",
            name=name,
            concurrent=params.ablation.concurrent,
            label="points",
        )
    metrics = conclude(params, rows, shared, out, log)
    for folder in (shared.kept, STATE / "searches" / name):  # done: the next time is a new time
        shutil.rmtree(folder, ignore_errors=True)
    return metrics


def conclude(params: Params, rows: list[dict[str, Any]], shared: Shared, out: Path, log: Run) -> dict[str, float]:
    """Writes the table and the figure. Raises InputError if no point came to its end."""
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError("every point of the ablation failed; the messages above say why")
    table = pd.DataFrame([line(shared.points[row["point"]], row) | difference(row["point"], shared) for row in rows])
    table.to_csv(out / "table.csv", index=False, lineterminator="\n")
    (out / "figure.png").write_bytes(figures.ablation(table, params.ablation.along, figures.LIGHT))
    (out / "protocol.txt").write_text(shared.protocol.describe() + "\n", encoding="utf-8")
    log.artifact(out)
    return {
        "points": float(len(rows)),
        "points_failed": float(len(rows) - len(finished)),
        "fvd_best": min(row["fvd"] for row in finished),
    }


def line(point: Point, row: Mapping[str, Any]) -> dict[str, Any]:
    """A point as a row of the table: which arm, with which settings, and its score."""
    measured = ("fvd", "fvd_low", "fvd_high", "milliseconds_per_frame", "status")
    told = {"arm": point.arm, "experiment": point.experiment, **plain(point.sampler)}
    return told | {name: row.get(name) for name in measured}


def difference(place: int, shared: Shared) -> dict[str, Any]:
    """How far a point's FVD lies above the one that it is compared with, and the interval of that on equal clips."""
    names = ("difference", "difference_low", "difference_high")
    other = shared.points[place].against
    paths = [shared.kept / f"{index}.safetensors" for index in (place, other)]
    if other is None or not all(path.is_file() for path in paths):
        return {"against": None, **dict.fromkeys(names)}
    fake, compared = (load_file(path)["features"] for path in paths)
    found = fvd.difference(shared.real, fake, compared, shared.protocol.resamples)
    numbers = dict(zip(names, (found.value, found.low, found.high), strict=True))
    return {"against": shared.points[other].arm, **numbers}


if __name__ == "__main__":
    stage.run(main, rows="ablations")
