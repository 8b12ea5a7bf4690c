"""Trials of sampler settings, for a search or an ablation, on the same clips with the same random draws."""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components.datasets.annotations import Annotations
from components.datasets.clips import Clips
from components.foundation import checkpoint, devices
from components.foundation.caching.cache import Cache
from components.foundation.config import plain
from components.metrics.distances import fvd
from components.metrics.distances.features import FeatureExtractor
from components.metrics.distances.fvd import ProtocolConfig
from components.metrics.distances.intervals import Estimate
from components.sampling.batches import predict_batches
from components.sampling.frame import SamplerConfig
from components.sampling.predictor import Predictor
from components.telemetry.tracking import RunHandle
from pipeline.runtime import cluster
from pipeline.runtime.ray_map import INLINE
from pipeline.tuning.ablation import Point
from pipeline.tuning.sampler_search import changed


@dataclass(frozen=True, slots=True)
class Folders:
    """Absolute folders of the inputs of a trial, valid in every process."""

    model: Path
    autoencoder: Path
    weights: Path
    cache: Cache  # holds features of clips


@dataclass(frozen=True, slots=True)
class Scoring:
    """Inputs that all trials share: clips and random draws are the same, so only settings make scores differ."""

    sampler: SamplerConfig  # the current settings, which a trial changes
    protocol: ProtocolConfig
    folders: Folders
    truth: UInt8[Tensor, "b f c h w"]
    annotations: Annotations  # of these clips
    real: Float[Tensor, "b d"]  # I3D features of the frames that FVD scores
    futures: int  # predictions per clip
    log: RunHandle
    own: Float[Tensor, "b d"] | None = None  # features of the row's own sampler, with which a search compares a trial

    @classmethod
    def of(
        cls,
        sampler: SamplerConfig,
        protocol: ProtocolConfig,
        folders: Folders,
        clips: Clips,
        indices: list[int],
        log: RunHandle,
        futures: int = 1,
    ) -> "Scoring":
        """Return the shared inputs for the clips at these indices, and compute the features of the real clips."""
        context = protocol.context
        truth = clips.read(indices)[:, : context + protocol.frames]
        network = FeatureExtractor(folders.weights, devices.device(), folders.cache, protocol.resolution, INLINE)
        real = network.extract(fvd.scored(truth[:, :context], truth[:, context:], protocol), "real clips")
        return cls(sampler, protocol, folders, truth, clips.annotations(indices), real, futures, log)

    @property
    def blocks(self) -> int:
        """Return the number of jackknife blocks for the interval of FVD."""
        return min(self.protocol.resamples, len(self.truth))


@functools.lru_cache(maxsize=1)
def load(folders: Folders, resolution: int) -> tuple[Predictor, FeatureExtractor]:
    """Load the model with its VAE, and the I3D network; cached, so that a process loads them once for all trials."""
    device = devices.device()
    predictor = Predictor.load(folders.model, folders.autoencoder, device)
    return predictor, FeatureExtractor(folders.weights, device, folders.cache, resolution, INLINE)


def trial(number: int, setting: Mapping[str, Any], shared: Scoring) -> dict[str, float]:
    """Return the FVD of one setting, its difference to that of the row's own sampler, and time and GFLOPs per frame.

    Both distances have their intervals. The difference is paired: the clips and the random draws are the same.
    """
    measure = cluster.measure()
    with shared.log.child(trial_name(number, setting), dict(setting), {"part": "trial"}) as log:
        fake, milliseconds, gigaflops = features(changed(shared.sampler, setting), shared)
        score = fvd.score(shared.real, fake, shared.blocks)
        metrics = {"fvd": score.value, **interval("fvd", score)}
        if shared.own is not None:
            difference = fvd.difference(shared.real, fake, shared.own, shared.blocks)
            metrics |= {"fvd_difference": difference.value, **interval("fvd_difference", difference)}
        metrics |= {"milliseconds_per_frame": milliseconds, "gigaflops_per_frame": gigaflops}
        log.metrics(metrics | measure.use().metrics())
    return metrics


@dataclass(frozen=True, slots=True)
class AblationInputs:
    """Inputs that all points of an ablation share: clips and random draws are the same."""

    points: list[Point]
    scorings: Mapping[str, Scoring]  # by experiment
    folder: Path  # holds the features of each finished point

    def features(self, index: int) -> Path:
        """Return the path of a point's features."""
        return self.folder / f"{index}.safetensors"

    def difference(self, index: int) -> dict[str, Any]:
        """Return a point's FVD minus the FVD of its comparison point, with the interval, on the same clips.

        All values are None if there is no point to compare with or one of the two failed.
        """
        names = ("difference", "difference_low", "difference_high")
        other = self.points[index].against
        if other is None or not all(self.features(point).is_file() for point in (index, other)):
            return {"against": None, **dict.fromkeys(names)}
        fake, compared = (checkpoint.read_weights(self.features(point))["features"] for point in (index, other))
        scoring = self.scorings[self.points[index].experiment]
        estimate = fvd.difference(scoring.real, fake, compared, scoring.protocol.resamples)
        values = (estimate.value, estimate.low, estimate.high)
        return {"against": self.points[other].arm, **dict(zip(names, values, strict=True))}


def ablation_trial(number: int, setting: Mapping[str, Any], shared: AblationInputs) -> dict[str, float]:
    """Write the features of one point; return its FVD with the interval, and the milliseconds per frame."""
    point = shared.points[setting["point"]]
    scoring = shared.scorings[point.experiment]
    with scoring.log.child(point.name, {"arm": point.arm, **plain(point.sampler)}) as log:
        fake, milliseconds, _ = features(point.sampler, scoring)
        checkpoint.save_weights(shared.features(setting["point"]), {"features": fake})
        score = fvd.score(scoring.real, fake, scoring.protocol.resamples)
        metrics = {"fvd": score.value, **interval("fvd", score), "milliseconds_per_frame": milliseconds}
        log.metrics(metrics)
    return metrics


def features(sampler: SamplerConfig, shared: Scoring) -> tuple[Float[Tensor, "b d"], float, float]:
    """Return the I3D features of the predictions, and the milliseconds and GFLOPs per frame.

    FLOPs are those of matrix products and convolutions, counted on one clip.
    """
    protocol, annotations = shared.protocol, shared.annotations
    predictor, network = load(shared.folders, protocol.resolution)
    context = shared.truth[:, : protocol.context]
    with FlopCounterMode(display=False) as counter:
        next(predict_batches(predictor, context[:1], protocol.frames, protocol.seed, sampler, annotations[:1]))
    start = time.perf_counter()
    contexts, annotations = context.repeat_interleave(shared.futures, dim=0), annotations.repeated(shared.futures)
    predictions = predict_batches(predictor, contexts, protocol.frames, protocol.seed, sampler, annotations)
    clips = torch.cat([prediction.clips for prediction in predictions])[:, protocol.context :]
    milliseconds = 1000 * (time.perf_counter() - start) / (len(clips) * protocol.frames)
    fake = network.extract(fvd.scored(context, clips, protocol), "samples")
    return fake, milliseconds, counter.get_total_flops() / 1e9 / protocol.frames


def compare(winner: SamplerConfig, shared: Scoring) -> dict[str, float]:
    """Return the FVD of the winner and of the current sampler on clips that no trial used, and their difference.

    Each value has its interval. The winner's score in the search is biased, because it is the best of many.
    """
    best, first = (features(sampler, shared)[0] for sampler in (winner, shared.sampler))
    features_of = {"fvd_unseen": best, "fvd_unseen_first": first}
    scores = {name: fvd.score(shared.real, fake, shared.blocks) for name, fake in features_of.items()}
    metrics = {name: score.value for name, score in scores.items()}
    for name, score in scores.items():
        metrics |= interval(name, score)
    difference = fvd.difference(shared.real, best, first, shared.blocks)
    return metrics | {"fvd_unseen_difference": difference.value} | interval("fvd_unseen_difference", difference)


def interval(name: str, estimate: Estimate) -> dict[str, float]:
    """Return both ends of an estimate's interval as metrics; empty if there is no interval."""
    ends = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: value for key, value in ends.items() if value is not None}


def trial_name(number: int, setting: Mapping[str, Any]) -> str:
    """Return the name of a trial's MLflow run; the number comes first, because MLflow's table cuts long names."""
    values = (
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}" for path, value in setting.items()
    )
    return f"{number}: {', '.join(values) or 'as it stands'}"
