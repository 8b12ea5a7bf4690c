"""Predictions of many contexts, written as they come: what was interrupted goes on, and many places share the work."""

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from components import checkpoint
from components.config import fingerprint
from components.metrics.fvd import ProtocolConfig
from components.randomness import Stream
from components.sampling.frame import SamplerConfig
from pipeline.hands import Hands
from pipeline.predictor import Prediction, Predictor

BATCH = 16  # clips that are predicted and kept together
SECONDS = "seconds"

# the place of the first context of a batch among all, the contexts, and what they are about
Part = tuple[int, Tensor, Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Job:
    """How every batch is predicted, and the folder that its predictions go to."""

    protocol: ProtocolConfig
    sampler: SamplerConfig
    kept: Path

    def path(self, start: int) -> Path:
        """The file of the batch whose first context is that one."""
        return self.kept / f"{start:08d}.safetensors"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions on disk, a clip's own one after the other."""

    paths: tuple[Path, ...]

    def clips(self, first: int) -> UInt8[Tensor, "b f c h w"]:
        """All predicted clips, from this frame on."""
        return torch.cat([_read(path, "clips")[:, first:].clone() for path in self.paths])

    def seconds(self) -> float:
        """What all of them took, wherever: added up, not from the first to the last."""
        return sum(float(_read(path, SECONDS)) for path in self.paths)

    def pick(self, name: str, indices: list[int]) -> Tensor | None:
        """One field of `Prediction`, of some predictions; None where there is none."""
        places = [divmod(index, BATCH) for index in indices]
        found = [_read(self.paths[part], name) for part, _ in places]
        return None if found[0] is None else torch.stack([x[row] for x, (_, row) in zip(found, places, strict=True)])


def unfinished(state: Path, row: str, facts: dict[str, Any]) -> Path:
    """The folder where predictions wait for the rest: of these facts and this code; what the row left before goes."""
    code = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "components").rglob("*.py")):
        code.update(path.read_bytes())
    folder = state / "evaluations" / row / fingerprint({**facts, "code": code.hexdigest()})
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def predict(
    load: Callable[[], Predictor],
    context: UInt8[Tensor, "b f c h w"],
    job: Job,
    hands: Hands,
    words: Sequence[str] | None = None,
) -> Predictions:
    """As many predictions of every context as the protocol wants; `load` gives the model, once in each place,
    and `words` are what the contexts are about.

    A batch that lies there is not predicted again; its seconds are those that it took then. A clip's chance does not
    depend on its batch or its place.
    """
    contexts = context.repeat_interleave(job.protocol.futures, dim=0)
    about = words and [one for one in words for _ in range(job.protocol.futures)]
    starts = range(0, len(contexts), BATCH)
    missing = [start for start in starts if not job.path(start).is_file()]
    parts = ((start, contexts[start : start + BATCH], about and about[start : start + BATCH]) for start in missing)
    total = sum(min(BATCH, len(contexts) - start) for start in missing)
    if missing:
        hands.map(
            functools.partial(_worker, load, job),
            parts,
            count=lambda part: len(part[1]),
            total=total,
            label="predict",
            unit="clips",
        )
    return Predictions(tuple(job.path(start) for start in starts))


def _worker(load: Callable[[], Predictor], job: Job) -> Callable[[Part], None]:
    return functools.partial(_predict, load(), job)


def _predict(loaded: Predictor, job: Job, part: Part) -> None:
    start, contexts, about = part
    began = time.perf_counter()
    stream = Stream.of(job.protocol.seed, range(start, start + len(contexts)), loaded.device)
    prediction = loaded.predict(contexts, job.protocol.frames, stream, job.sampler, about)
    tensors = {name: getattr(prediction, name) for name in Prediction.__slots__}
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    checkpoint.save_weights(job.path(start), {**present, SECONDS: torch.tensor(time.perf_counter() - began)})


def _read(path: Path, name: str) -> Any:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118, this is no mapping
