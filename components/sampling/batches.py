"""Predict many contexts batch by batch; write the batches to files, so that an interrupted evaluation resumes."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from components.datasets.annotations import NONE, Annotations
from components.foundation import devices
from components.foundation.caching import cache, code
from components.foundation.caching.cache import Cache, Entry
from components.foundation.config import plain
from components.foundation.parallel import ParallelMap
from components.foundation.randomness import Stream
from components.metrics.distances.fvd import ProtocolConfig
from components.sampling.frame import SamplerConfig
from components.sampling.predictor import Prediction, Predictor

BATCH = 16  # clips that are predicted together and stored in one file
SECONDS = "seconds"

# index of a batch's first context, the contexts, and their annotations
Batch = tuple[int, Tensor, Annotations]


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """Protocol and sampler of all batches, and the folder for their predictions."""

    protocol: ProtocolConfig
    sampler: SamplerConfig
    folder: Path

    def path(self, start: int) -> Path:
        """Return the file of the batch whose first context has the index `start`."""
        return self.folder / f"{start:08d}.safetensors"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions on disk; the predictions of a clip are consecutive."""

    paths: tuple[Path, ...]

    def clips(self, first: int) -> UInt8[Tensor, "b f c h w"]:
        """Return all predicted clips, from frame `first` on."""
        return torch.cat([_read(path, "clips")[:, first:].clone() for path in self.paths])

    def seconds(self) -> float:
        """Return the sum of the prediction times of all batches, which may have run in parallel."""
        return sum(float(_read(path, SECONDS)) for path in self.paths)

    def pick(self, name: str, indices: list[int]) -> Tensor | None:
        """Return the field `name` of `Prediction` for the predictions at these indices; None if it was not stored."""
        positions = [divmod(index, BATCH) for index in indices]
        tensors = [_read(self.paths[file], name) for file, _ in positions]
        if tensors[0] is None:
            return None
        return torch.stack([x[row] for x, (_, row) in zip(tensors, positions, strict=True)])


def entry(inputs: Mapping[str, Any], context: Tensor, protocol: ProtocolConfig, sampler: SamplerConfig) -> Entry:
    """Return the cache entry of these predictions. `inputs` are the hashes of the model, the VAE and the clips."""
    settings = {"context": cache.digest(context), "protocol": plain(protocol), "sampler": plain(sampler)}
    return Cache.here().entry("predictions", {**inputs, **settings, "batch": BATCH}, code.fingerprint(__file__))


def load(model: Path, autoencoder: Path) -> Predictor:
    """Return the predictor of these folders; `predict` calls this once on each worker."""
    return Predictor.load(model, autoencoder, devices.device())


def split(
    clips: UInt8[Tensor, "b f c h w"], annotations: Annotations, seed: int, device: torch.device, first: int = 0
) -> Iterator[tuple[UInt8[Tensor, "a f c h w"], Annotations, Stream]]:
    """Yield batches of clips with their annotations and random stream.

    A clip's random numbers depend on its index, not on its batch; `first` is the index of the first of these clips.
    """
    for start in range(0, len(clips), BATCH):
        part = clips[start : start + BATCH]
        samples = range(first + start, first + start + len(part))
        yield part, annotations[start : start + BATCH], Stream.of(seed, samples, device)


def predict_batches(
    predictor: Predictor,
    context: UInt8[Tensor, "b f c h w"],
    frames: int,
    seed: int,
    sampler: SamplerConfig,
    annotations: Annotations = NONE,
    first: int = 0,
) -> Iterator[Prediction]:
    """Yield the predictions of `frames` frames after each context, batch by batch; `first` is as in `split`."""
    for batch, batch_annotations, stream in split(context, annotations, seed, predictor.device, first):
        yield predictor.predict(batch, frames, stream, sampler, batch_annotations)


def predict(
    load: Callable[[], Predictor],
    context: UInt8[Tensor, "b f c h w"],
    job: PredictionJob,
    parallel: ParallelMap,
    annotations: Annotations = NONE,
) -> Predictions:
    """Predict `protocol.futures` futures of every context; each worker calls `load` once to get the predictor.

    Batches with a complete file are not predicted again, and keep their first prediction time. A clip's random numbers
    do not depend on its batch or its worker.
    """
    contexts = context.repeat_interleave(job.protocol.futures, dim=0)
    repeated = annotations.repeated(job.protocol.futures)
    starts = range(0, len(contexts), BATCH)
    missing = [start for start in starts if not cache.whole(job.path(start))]
    batches = ((start, contexts[start : start + BATCH], repeated[start : start + BATCH]) for start in missing)
    total = sum(min(BATCH, len(contexts) - start) for start in missing)
    if missing:
        parallel(
            functools.partial(_worker, load, job),
            batches,
            size=lambda batch: len(batch[1]),
            total=total,
            label="predict",
            unit="clips",
        )
    return Predictions(tuple(job.path(start) for start in starts))


def _worker(load: Callable[[], Predictor], job: PredictionJob) -> Callable[[Batch], None]:
    return functools.partial(_predict, load(), job)


def _predict(predictor: Predictor, job: PredictionJob, batch: Batch) -> None:
    start, contexts, annotations = batch
    start_time = time.perf_counter()
    (prediction,) = predict_batches(
        predictor, contexts, job.protocol.frames, job.protocol.seed, job.sampler, annotations, first=start
    )
    tensors = {name: getattr(prediction, name) for name in Prediction.__slots__}
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    cache.save(job.path(start), {**present, SECONDS: torch.tensor(time.perf_counter() - start_time)})


def _read(path: Path, name: str) -> Any:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118, `file` is not a mapping
