"""Stage `sweep`: settings of a sampler tried on validation clips, through Ray Tune."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from components import checkpoint
from components.config import Config, fingerprint, parse, plain
from components.data.clips import Clips
from components.data.selection import evaluation_clips
from components.errors import InputError
from components.metrics.fvd import ProtocolConfig, fvd, scored
from components.sampling.frame import SamplerConfig
from components.sampling.search import SearchConfig, settings, varied
from components.tracking import Run, RunHandle
from pipeline import cluster, stage, trials
from pipeline.features import Features
from pipeline.predictor import Predictor

BATCH = 16  # clips


class Params(Config):
    """The sampler to begin with, what may vary, and the protocol that a trial is scored by."""

    sampler: SamplerConfig
    search: SearchConfig
    protocol: ProtocolConfig


@dataclass(frozen=True, slots=True)
class Shared:
    """What all trials have in common: equal clips, equal chance, so that differences are the settings'."""

    model: Path
    autoencoder: Path
    weights: Path
    cache: Path
    protocol: ProtocolConfig
    search: SearchConfig
    truth: Tensor
    real: Tensor  # features
    log: RunHandle


def trial(setting: Mapping[str, Any], shared: Shared) -> dict[str, float]:
    """FVD on the validation clips and the time that a frame took, for one setting."""
    device = cluster.device()
    sampler = parse(SamplerConfig, setting, where="search")
    given, frames = shared.protocol.context, shared.protocol.frames
    with shared.log.child(name(sampler, shared.search), varied(sampler, shared.search)) as log:
        loaded = Predictor.load(shared.model, shared.autoencoder, device)
        began = time.perf_counter()
        context = shared.truth[:, :given]
        predictions = loaded.batches(context, frames, shared.protocol.seed, sampler, BATCH)
        clips = torch.cat([prediction.clips for prediction in predictions])[:, given:]
        milliseconds = 1000 * (time.perf_counter() - began) / (len(clips) * frames)
        features = Features(shared.weights, device, shared.cache, shared.protocol.resolution)
        fake = features.of(scored(context, clips, shared.protocol), "samples")
        metrics = {"fvd": fvd(shared.real, fake), "milliseconds_per_frame": milliseconds}
        log.metrics(metrics)
    return metrics


def name(sampler: SamplerConfig, search: SearchConfig) -> str:
    """A trial's name, for a person."""
    return ", ".join(f"{key} {value}" for key, value in varied(sampler, search).items())


def main(
    params: Params, *, clips: Path, autoencoder: Path, model: Path, weights: Path, out: Path, log: Run
) -> dict[str, float]:
    """The table of all trials, and the sampler that scored best."""
    protocol, search = params.protocol, params.search
    held = Clips.open(clips, "val")
    chosen, _ = evaluation_clips([held.name(index) for index in range(len(held))], search.clips)
    truth = held.read(chosen)[:, : protocol.context + protocol.frames]
    cache = Path(".state").resolve() / "features"
    features = Features(weights, cluster.device(), cache, protocol.resolution)
    given = protocol.context
    real = features.of(scored(truth[:, :given], truth[:, given:], protocol), "validation clips")
    candidates = [plain(sampler) for sampler in settings(params.sampler, search)]
    shared = Shared(
        model.resolve(), autoencoder.resolve(), weights.resolve(), cache, protocol, search, truth, real, log.handle
    )
    facts = {"params": fingerprint(params), "model": checkpoint.sha256(model / "weights.safetensors")}
    with cluster.connect(Path.cwd()):
        rows = trials.search(
            trial,
            candidates,
            shared,
            storage=Path(".state") / "searches",
            name=f"search-{fingerprint(facts)}",
            concurrent=search.concurrent,
            label="trials",
        )
    return conclude(params, rows, out, log)


def conclude(params: Params, rows: list[dict[str, Any]], out: Path, log: Run) -> dict[str, float]:
    """Writes the table and the winner. Raises InputError if no trial came to its end."""
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise InputError("every trial of the search failed; the messages above say why")
    best = min(finished, key=lambda row: row["fvd"])
    winner = settings(params.sampler, params.search)[best["trial"]]
    columns = ["trial", *params.search.space, "fvd", "milliseconds_per_frame", "status"]
    pd.DataFrame(rows).reindex(columns=columns).to_csv(out / "trials.csv", index=False, lineterminator="\n")
    content = {"trial": best["trial"], "fvd": best["fvd"], "sampler": plain(winner)}
    (out / "best.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    log.artifact(out)
    return {
        "fvd_best": best["fvd"],
        "fvd_first": rows[0].get("fvd", float("nan")),
        "trials": float(len(rows)),
        "trials_failed": float(len(rows) - len(finished)),
    }


if __name__ == "__main__":
    stage.run(main, rows="experiments")
