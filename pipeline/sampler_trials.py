"""Trials of a search over a sampler's settings: one loaded model a process, equal clips, equal chance."""

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

from components.data.clips import Clips
from components.metrics import fvd
from components.metrics.fvd import ProtocolConfig
from components.metrics.intervals import Estimate
from components.sampling.frame import SamplerConfig
from components.sampling.search import changed
from components.tracking import RunHandle
from pipeline import cluster
from pipeline.features import Features
from pipeline.predictor import Predictor

BATCH = 16  # clips


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the parts of a trial lie, for any process."""

    model: Path
    autoencoder: Path
    weights: Path
    cache: Path  # of features


@dataclass(frozen=True, slots=True)
class Scoring:
    """What all trials have in common: equal clips, equal chance, so that differences are the settings'."""

    sampler: SamplerConfig  # to begin with
    protocol: ProtocolConfig
    folders: Folders
    truth: UInt8[Tensor, "b f c h w"]
    words: list[str] | None  # what these clips are about, where it is known
    real: Float[Tensor, "b d"]  # features of what FVD sees of these
    log: RunHandle

    @classmethod
    def of(
        cls,
        sampler: SamplerConfig,
        protocol: ProtocolConfig,
        folders: Folders,
        held: Clips,
        chosen: list[int],
        log: RunHandle,
    ) -> "Scoring":
        """By these clips, whose own features are looked at here."""
        given = protocol.context
        truth = held.read(chosen)[:, : given + protocol.frames]
        network = Features(folders.weights, cluster.device(), folders.cache, protocol.resolution)
        real = network.of(fvd.scored(truth[:, :given], truth[:, given:], protocol), "validation clips")
        return cls(sampler, protocol, folders, truth, held.words(chosen), real, log)

    @property
    def blocks(self) -> int:
        """Blocks of clips that are left out in turn for the interval."""
        return min(self.protocol.resamples, len(self.truth))


@functools.lru_cache(maxsize=1)
def loaded(folders: Folders, resolution: int) -> tuple[Predictor, Features]:
    """The model with its VAE and the network of FVD: loaded once in a process, however many trials it runs."""
    device = cluster.device()
    predictor = Predictor.load(folders.model, folders.autoencoder, device)
    return predictor, Features(folders.weights, device, folders.cache, resolution)


def trial(number: int, setting: Mapping[str, Any], shared: Scoring) -> dict[str, float]:
    """FVD on the validation clips with its interval, and the time and the arithmetic of a frame, for one setting."""
    used = cluster.measure()
    with shared.log.child(named(number, setting), dict(setting), {"part": "trial"}) as log:
        fake, milliseconds, gigaflops = features(changed(shared.sampler, setting), shared)
        found = fvd.score(shared.real, fake, shared.blocks)
        metrics = {"fvd": found.value, **ends("fvd", found)}
        metrics |= {"milliseconds_per_frame": milliseconds, "gigaflops_per_frame": gigaflops}
        log.metrics(metrics | used.use().metrics())
    return metrics


def features(sampler: SamplerConfig, shared: Scoring) -> tuple[Float[Tensor, "b d"], float, float]:
    """I3D features of the predictions, and the milliseconds and 10^9 operations that a frame takes.

    Operations are those of matrix products and convolutions, counted on one clip.
    """
    protocol, given = shared.protocol, shared.protocol.context
    predictor, network = loaded(shared.folders, protocol.resolution)
    context = shared.truth[:, :given]
    with FlopCounterMode(display=False) as counter:
        next(predictor.batches(context[:1], protocol.frames, protocol.seed, sampler, 1, shared.words))
    began = time.perf_counter()
    predictions = predictor.batches(context, protocol.frames, protocol.seed, sampler, BATCH, shared.words)
    clips = torch.cat([prediction.clips for prediction in predictions])[:, given:]
    milliseconds = 1000 * (time.perf_counter() - began) / (len(clips) * protocol.frames)
    fake = network.of(fvd.scored(context, clips, protocol), "samples")
    return fake, milliseconds, counter.get_total_flops() / 1e9 / protocol.frames


def compare(winner: SamplerConfig, shared: Scoring) -> dict[str, float]:
    """The winner and the sampler to begin with on these clips, and the difference on equal clips with its interval.

    A search takes the best of many scores, and so the winner's own is too good: these clips have chosen nothing.
    """
    best, first = (features(sampler, shared)[0] for sampler in (winner, shared.sampler))
    found = {"fvd_unseen": best, "fvd_unseen_first": first}
    scores = {name: fvd.score(shared.real, fake, shared.blocks) for name, fake in found.items()}
    numbers = {name: score.value for name, score in scores.items()}
    for name, score in scores.items():
        numbers |= ends(name, score)
    gain = fvd.difference(shared.real, best, first, shared.blocks)
    return numbers | {"fvd_unseen_difference": gain.value} | ends("fvd_unseen_difference", gain)


def ends(name: str, found: Estimate) -> dict[str, float]:
    """The ends of an interval by their names; nothing where there is none."""
    told = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: value for key, value in told.items() if value is not None}


def named(number: int, setting: Mapping[str, Any]) -> str:
    """A trial's name, for a person; the number first, for MLflow's table shows hardly more of a name."""
    words = (
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}" for path, value in setting.items()
    )
    return f"{number}: {', '.join(words) or 'as it stands'}"
