"""Predict the frames that follow a video with a trained row, and stream them while they are computed.

This module never imports Ray. It imports MLflow only to download a registered model.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from components.datasets import resizing
from components.datasets.annotations import NONE, Annotations
from components.datasets.latents import restore
from components.foundation import config
from components.foundation.devices import full_precision
from components.foundation.errors import InputError
from components.foundation.files import read_json
from components.foundation.randomness import Stream
from components.models.conditions.interface import ActionConfig, condition_of
from components.nn.autoencoders.interface import Autoencoder, shortest, to_uint8
from components.sampling.frame import Draft, SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.predictor import Predictor
from components.sampling.rollout import drafts
from components.telemetry import store, tracking
from components.video import excerpts
from pipeline.commands.prediction import familiarity, rows
from pipeline.commands.prediction.rows import Row

MAX_CONTEXT: Final = 64  # latent frames; longer than the temporal window of any model
MAX_PROBE: Final = 32  # latent frames; a decoder that depends on more past frames decodes the whole prefix
MAX_FUTURES: Final = 64

Video = Path | str | np.ndarray | Tensor
Actions = np.ndarray | Tensor  # frames x columns, or futures x frames x columns


@dataclass(frozen=True, slots=True)
class Context:
    """Context frames at the size and length that the model takes."""

    frames: UInt8[Tensor, "f c h w"]
    notes: tuple[str, ...]  # one sentence for each change that was made to the input frames
    skipped: int  # number of input frames that were dropped before these


@dataclass(frozen=True, slots=True)
class Step:
    """A predicted frame of b futures, with its canvas, staticness and generation order."""

    index: int  # 0 is the first predicted frame
    frame: UInt8[Tensor, "b c h w"]
    canvas: UInt8[Tensor, "b c h w"] | None  # None for a model without a canvas
    staticness: Float[Tensor, "b i o"]  # of each token; 1 where the model expects no motion
    order: Int[Tensor, "b i o"]  # index of the set in which each token was sampled


@dataclass(frozen=True, slots=True)
class PartialFrames:
    """The next frames in progress: tokens sampled so far, and the canvas where tokens are missing."""

    index: int  # index of the first of these frames; 0 is the first predicted frame
    share: float  # fraction of the tokens sampled so far
    frames: UInt8[Tensor, "b f c h w"]
    canvas: UInt8[Tensor, "b f c h w"] | None  # None for a model without a canvas
    staticness: Float[Tensor, "b i o"]  # of the last of these frames
    order: Int[Tensor, "b i o"]  # of the last of these frames
    done: bool  # whether all tokens are sampled

    def steps(self) -> Iterator[Step]:
        """Yield the frames one by one; call this only if `done`."""
        for offset in range(self.frames.shape[1]):
            canvas = None if self.canvas is None else self.canvas[:, offset]
            yield Step(self.index + offset, self.frames[:, offset], canvas, self.staticness, self.order)


class VideoPredictor(Predictor):
    """A trained model with its VAE and its sampler settings, for videos of any size and length."""

    sampler: SamplerConfig
    row: Row | None = None  # None for a registered model
    _reach: int | None = None
    _probed: bool = False

    @classmethod
    def open(cls, folder: Path | str, row: str, device: str | torch.device | None = None) -> "VideoPredictor":
        """Load a trained row of the project in `folder`, or else its shipped weights, with the sampler of its search.

        If `device` is None, use a GPU if there is one. Raise InputError if the row is neither trained nor shipped.
        """
        found = rows.find(folder, row)
        predictor = cls.of(found.model, found.autoencoder, found.sampler, device)
        predictor.row = found
        return predictor

    @classmethod
    def registered(
        cls, address: str, root: Path | str = ".", device: str | torch.device | None = None
    ) -> "VideoPredictor":
        """Load a registered model, such as models:/canvasmar-push-canvasmar@current, from the MLflow store of `root`.

        Raise InputError if the download fails, or if the model lacks the artifact model, autoencoder or sampler.
        """
        folder = download(address, Path(root))
        flavors = config.read_yaml(folder / "MLmodel").get("flavors", {})
        artifacts = flavors.get("python_function", {}).get("artifacts") or {}
        if missing := {"model", "autoencoder", "sampler"} - artifacts.keys():
            raise InputError(
                f"{address} lacks the artifacts {', '.join(sorted(missing))}; use a model that `evaluate` registered"
            )
        model, vae, best = (folder / artifacts[name]["path"] for name in ("model", "autoencoder", "sampler"))
        sampler = config.parse(SamplerConfig, read_json(best)["sampler"], where=str(best))
        return cls.of(model, vae, sampler, device)

    @classmethod
    def of(
        cls, model: Path, vae: Path, sampler: SamplerConfig, device: str | torch.device | None = None
    ) -> "VideoPredictor":
        """Load the model and the VAE of these folders.

        Raise InputError if the model was trained with another VAE, or if torch cannot use the device.
        """
        loaded = cls.load(model, vae, usable_device(device))
        assert isinstance(loaded, VideoPredictor)
        loaded.sampler = sampler
        return loaded

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of context and predicted frames."""
        height, width = self.description.model.latent[1:]
        return height * self.vae.strides[1], width * self.vae.strides[1]

    @property
    def fps(self) -> float | None:
        """Frames per second of the training clips; None if unknown."""
        return None if self.row is None else self.row.fps

    def with_settings(self, **settings: Any) -> SamplerConfig:
        """Return the sampler with some settings changed. Raise InputError if a name or a value is invalid."""
        return config.parse(SamplerConfig, config.plain(self.sampler) | settings, where="sampler")

    def prepare(self, video: Video, *, start: int = 0, context: int | None = None) -> Context:
        """Return `context` frames from frame `start` on (all if None), at the size and length that the model takes.

        `video` is the path of a file, or uint8 RGB frames of NumPy or PyTorch, `f h w c` or `f c h w`, of any size and
        number. No more of a file is read than is needed. Raise InputError for any other input or too few frames.
        """
        size, stride, notes = self.size, self.vae.strides[0], []
        if start < 0 or (context is not None and context < 1):
            raise InputError(f"start is {start} and context is {context}; use start >= 0 and context >= 1")
        if isinstance(video, str | Path):
            excerpt = excerpts.newest(Path(video), size, start, context, 1 + (MAX_CONTEXT - 1) * stride)
            frames, count = excerpt.frames, excerpt.first + len(excerpt.frames) - start
        else:
            frames = _channels_first(video)[start : None if context is None else start + context]
            count = len(frames)
        if count < (context or 1):
            chosen = "all" if context is None else context
            raise InputError(f"the video has too few frames: start is {start} and context is {chosen}; lower them")
        fitting = 1 + min((count - 1) // stride, MAX_CONTEXT - 1) * stride
        frames = frames[-fitting:]
        if tuple(frames.shape[-2:]) != size:
            notes.append(f"frames of {frames.shape[-2]} x {frames.shape[-1]} were resized to {size[0]} x {size[1]}")
            frames = resizing.fit(frames, size)
        if fitting < count:
            notes.append(f"only the last {fitting} of {count} frames are used, to fit the VAE and the model")
        return Context(frames.contiguous(), tuple(notes), count - fitting)

    def unlike(self, context: Context) -> str | None:
        """Return a warning if the context looks unlike the training clips, else None; see `familiarity`."""
        value = float(familiarity.surprise(self.encode(context.frames[None])).item())
        return familiarity.warning(value, None if self.row is None else self.row.surprise)

    def stream(
        self,
        video: Video | Context,
        *,
        frames: int = 16,
        futures: int = 1,
        seed: int = 0,
        words: str | None = None,
        actions: Actions | None = None,
        **settings: Any,
    ) -> Iterator[Step]:
        """Continue a video by `frames` frames, and yield each frame as soon as it is predicted.

        All futures are computed in one batch; future i of a seed does not depend on their number. `words` is the
        caption or label of the video. `actions` cover the context and the predicted frames. `settings` override fields
        of SamplerConfig. Warn about each change that the video needs. Raise InputError for invalid input.
        """
        parts = self.partial_frames(
            video, frames=frames, futures=futures, seed=seed, words=words, actions=actions, every_set=False, **settings
        )
        return (step for part in parts for step in part.steps())

    def partial_frames(
        self,
        video: Video | Context,
        *,
        frames: int = 16,
        futures: int = 1,
        seed: int = 0,
        words: str | None = None,
        actions: Actions | None = None,
        every_set: bool = True,
        **settings: Any,
    ) -> Iterator[PartialFrames]:
        """Like `stream`, but yield whole latent frames; if `every_set`, also before the first and after each set."""
        if frames < 1 or not 1 <= futures <= MAX_FUTURES:
            raise InputError(
                f"frames is {frames} and futures is {futures}; use at least 1 frame, and 1 to {MAX_FUTURES} futures"
            )
        context = video if isinstance(video, Context) else self.prepare(video)
        if not isinstance(video, Context):
            for note in context.notes:
                warnings.warn(note, stacklevel=2)
        sampler = self.with_settings(**settings)
        stream = Stream.of(seed, range(futures), self.device)
        annotations = self._annotations(context, words, actions, futures)
        model = self.conditioned_on(self.extend_actions(annotations, len(context.frames) + frames))
        return self._sample(model, [context], frames, stream, sampler, lambda share: every_set or share == 1)

    def _annotations(self, context: Context, words: str | None, actions: Actions | None, futures: int) -> Annotations:
        """Return the annotations of all futures. Raise InputError if the model was trained without such annotations."""
        condition = condition_of(self.description.model)
        if words is not None and (condition is None or isinstance(condition, ActionConfig)):
            raise InputError("the model was trained without captions or labels; omit the caption or label")
        if actions is not None and not isinstance(condition, ActionConfig):
            raise InputError("the model was trained without actions; omit the actions")
        rows = None if actions is None else _action_rows(actions, futures)[:, context.skipped :]
        return Annotations(None if words is None else [words] * futures, rows)

    def stream_batch(
        self, contexts: Sequence[Context], *, frames: int, seeds: Sequence[int], **settings: Any
    ) -> Iterator[PartialFrames]:
        """Predict one future of each context, with its own seed, in one batch; contexts must be equally long.

        Yield each latent frame twice: its canvas before the first set, and the finished frame.
        """
        stream = Stream.of(seeds, [0] * len(seeds), self.device)
        sampler = self.with_settings(**settings)
        return self._sample(self.conditioned_on(NONE), contexts, frames, stream, sampler, lambda share: share in (0, 1))

    @torch.no_grad()
    def _sample(
        self,
        model: FramePredictor,
        contexts: Sequence[Context],
        frames: int,
        stream: Stream,
        sampler: SamplerConfig,
        selected: Callable[[float], bool],
    ) -> Iterator[PartialFrames]:
        """Decode and yield the drafts whose share of sampled tokens is `selected`; skip all others."""
        latents = self.encode(torch.stack([context.frames for context in contexts]))
        latents = latents.expand(max(len(contexts), len(stream.samples)), -1, -1, -1, -1)
        length = len(contexts[0].frames) + frames
        total = self.vae.latent_frames(shortest(self.vae, length)) - latents.shape[1]
        finished, canvas = 0, None  # number of finished pixel frames, canvas of the current latent frames
        for start, draft in drafts(model, latents, total, stream, sampler):
            if not selected(draft.share):
                continue
            group = draft.frames()[: total - start]
            canvases = [frame.canvas for frame in group if frame.canvas is not None]
            if canvases and canvas is None:  # decode the canvas once: it is the same for all drafts of a frame
                canvas = self._decode(latents, torch.stack(canvases, dim=1))[:, : frames - finished]
            if draft.share or canvas is None:
                pixels = self._decode(latents, _fill_missing(draft, len(group)))[:, : frames - finished]
            else:
                pixels = canvas
            staticness, order = (
                part.unflatten(-1, latents.shape[-2:]).cpu() for part in (group[-1].staticness, group[-1].order)
            )
            yield PartialFrames(finished, draft.share, pixels, canvas, staticness, order, done=draft.share == 1)
            if draft.share == 1:
                latents = torch.cat([latents, torch.stack([frame.latent for frame in group], dim=1)], dim=1)
                finished, canvas = finished + pixels.shape[1], None

    def _decode(
        self, latents: Float[Tensor, "b t c h w"], newest: Float[Tensor, "b g c h w"]
    ) -> UInt8[Tensor, "b f c h w"]:
        """Return the pixels of the newest latent frames, decoded with the past frames that they depend on."""
        count = newest.shape[1]
        past = latents if self.reach is None else latents[:, -self.reach :]
        frames = self.vae.decode(restore(torch.cat([past, newest], dim=1), self.mean, self.std))
        return to_uint8(frames[:, self.vae.pixel_frames(past.shape[1]) :][:, : count * self.vae.strides[0]]).cpu()

    @property
    def reach(self) -> int | None:
        """Number of past latent frames that are decoded together with the current one; None for all of them."""
        if not self._probed:
            with full_precision():  # TF32 rounding errors would exceed the tolerance of the probe
                self._reach, self._probed = probe(self.vae, self.description.model.latent, self.device), True
        return self._reach


def probe(vae: Autoencoder, latent: tuple[int, int, int], device: torch.device) -> int | None:
    """Return the number of past latent frames that a decoded frame depends on; None for all, or too many to probe.

    NaN propagates to every dependent output. A second check on random latents excludes decoders that work in chunks,
    for which the number depends on the position.
    """
    if not vae.causal:
        return None
    stride, poisoned = vae.strides[0], 1
    latents = torch.zeros(1, MAX_PROBE, *latent, device=device)
    latents[:, : poisoned + 1] = torch.nan
    finite = vae.decode(latents).isfinite().flatten(2).all(dim=2)[0]
    finite = finite[vae.pixel_frames(poisoned + 1) :].unflatten(0, (-1, stride)).all(dim=1)
    if not finite[-1]:
        return None
    reach = len(finite) - int(finite.int().flip(0).cumprod(0).sum()) + 1  # + 1: the first frame may be special
    latents = torch.randn(1, reach + 5, *latent, generator=torch.Generator().manual_seed(0)).to(device)
    for length in (reach + 2, reach + 3, reach + 5):
        whole, part = (vae.decode(latents[:, start:length])[:, -stride:] for start in (0, length - reach - 1))
        if not torch.allclose(whole, part, rtol=1e-3, atol=1e-3):
            return None
    return reach


def download(address: str, root: Path) -> Path:
    """Download a model of MLflow, such as models:/name@alias. Raise InputError if the download fails."""
    import mlflow

    uri = tracking.uri(root)
    store.check(uri)
    store.relocate(uri)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=uri))
    except Exception as error:  # from MLflow, the network or the file system
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot download {address} ({reason}); correct the name or MLFLOW_TRACKING_URI") from None


def _fill_missing(draft: Draft, count: int) -> Float[Tensor, "b g c h w"]:
    """Return the first `count` frames of a draft; missing tokens come from the canvas, or are 0 (the mean)."""
    frames, present, group = draft.frames()[:count], draft.present, draft.model.group
    filled = []
    for index, frame in enumerate(frames):
        mask = present[index::group].unflatten(-1, frame.latent.shape[-2:])[:, None]
        background = torch.zeros_like(frame.latent) if frame.canvas is None else frame.canvas
        filled.append(torch.where(mask, frame.latent, background))
    return torch.stack(filled, dim=1)


def usable_device(name: str | torch.device | None) -> torch.device:
    """Return the device; for None a GPU, or the CPU without a GPU. Raise InputError if torch cannot use the device."""
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises each of them, depending on the device
        reason = str(error).splitlines()[0]
        raise InputError(f"torch cannot use the device {device} ({reason}); use cpu, cuda or cuda:N") from None
    return torch.device(device)


def _action_rows(actions: Actions, futures: int) -> Float[Tensor, "b f i"]:
    """Return the actions of each future. Raise InputError if the shape is wrong or a value is not finite."""
    rows = torch.as_tensor(actions).detach().cpu().float()
    rows = rows.expand(futures, *rows.shape) if rows.ndim == 2 else rows
    if rows.ndim != 3 or len(rows) != futures or 0 in rows.shape or not rows.isfinite().all():
        raise InputError(
            f"actions have the shape {list(torch.as_tensor(actions).shape)} or values that are not finite; "
            f"use finite numbers, frames x columns for all futures or {futures} x frames x columns"
        )
    return rows


def _channels_first(video: np.ndarray | Tensor) -> UInt8[Tensor, "f c h w"]:
    """Return frames of NumPy or PyTorch with the channels in axis 1. Raise InputError if they are not RGB frames."""
    frames = torch.from_numpy(np.ascontiguousarray(video)) if isinstance(video, np.ndarray) else video.detach().cpu()
    if frames.ndim != 4 or frames.dtype != torch.uint8 or 3 not in (frames.shape[1], frames.shape[3]):
        raise InputError(
            f"the video is {frames.dtype} of shape {list(frames.shape)}; "
            "use uint8 RGB frames, f x height x width x 3 or f x 3 x height x width"
        )
    if 0 in frames.shape:
        raise InputError("the video has no frames; pass at least one")
    return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)
