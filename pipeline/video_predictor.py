"""A trained row in a user's hands: any video in, its continuation out while it is made.

Nothing here imports Ray, and MLflow only where a registered model is asked for.
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

from components import checkpoint, config, tracking
from components.autoencoders.interface import Autoencoder, shortest, to_uint8
from components.data import video as videos
from components.data.latents import restore
from components.errors import InputError
from components.models.trained import Trained
from components.nn.precision import exactly
from components.randomness import Stream
from components.reporting import results
from components.sampling.frame import Draft, SamplerConfig
from components.sampling.interface import FramePredictor
from components.sampling.rollout import drafts
from pipeline.predictor import Predictor

LONGEST_CONTEXT: Final = 64  # latent frames; what lies further back no window reaches
LONGEST_PROBE: Final = 32  # latent frames; a decoder that looks further back is given the whole prefix
MOST_FUTURES: Final = 64

Video = Path | str | np.ndarray | Tensor


@dataclass(frozen=True, slots=True)
class Given:
    """Frames as the model takes them, and what was done to bring them there, a sentence each."""

    frames: UInt8[Tensor, "f c h w"]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A predicted frame of b futures, and what led to it."""

    index: int  # 0 is the first predicted frame
    frame: UInt8[Tensor, "b c h w"]
    canvas: UInt8[Tensor, "b c h w"] | None  # None for a model without
    staticness: Float[Tensor, "b i o"]  # of each token, 1 where nothing is expected to move
    order: Int[Tensor, "b i o"]  # the set in which each token came


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Frames on their way: at first the canvas alone, then more and more tokens in its place."""

    index: int  # of the first of these frames
    share: float  # of the tokens that are there
    frames: UInt8[Tensor, "b f c h w"]
    canvas: UInt8[Tensor, "b f c h w"] | None
    staticness: Float[Tensor, "b i o"]  # of the last of these frames, as its order
    order: Int[Tensor, "b i o"]
    done: bool

    def steps(self) -> Iterator[Step]:
        """One by one, once they are done."""
        for place in range(self.frames.shape[1]):
            canvas = None if self.canvas is None else self.canvas[:, place]
            yield Step(self.index + place, self.frames[:, place], canvas, self.staticness, self.order)


class VideoPredictor(Predictor):
    """A model, its VAE and the settings to sample with."""

    sampler: SamplerConfig
    _reach: int | None = None
    _probed: bool = False

    @classmethod
    def open(cls, folder: Path | str, row: str, device: str | torch.device | None = None) -> "VideoPredictor":
        """The trained row of the project in this folder, with the sampler that its search chose.

        Without a device, a GPU is taken where there is one. Raises InputError if the row is not trained.
        """
        data = Path(folder) / "data"
        model = data / "models" / row
        if not model.is_dir():
            known = ", ".join(rows(folder)) or "none"
            raise InputError(f"no experiment {row!r} is trained; there is {known}: run `make repro` first")
        best = data / "searches" / row / "best.json"
        sampler = config.parse(SamplerConfig, results.read_json(best)["sampler"], where=str(best))
        return cls.of(model, autoencoder(data, model), sampler, device)

    @classmethod
    def registered(
        cls, address: str, root: Path | str = ".", device: str | torch.device | None = None
    ) -> "VideoPredictor":
        """A model of MLflow, such as models:/canvasmar-kuka-canvasmar@current, from the store of the project `root`.

        Raises InputError if it cannot be fetched or holds no model, autoencoder and sampler.
        """
        folder = fetched(address, Path(root))
        flavors = config.read_yaml(folder / "MLmodel").get("flavors", {})
        kept = flavors.get("python_function", {}).get("artifacts") or {}
        if missing := {"model", "autoencoder", "sampler"} - kept.keys():
            raise InputError(
                f"{address} holds no {' and no '.join(sorted(missing))}; name a model that `evaluate` registered"
            )
        model, vae, best = (folder / kept[name]["path"] for name in ("model", "autoencoder", "sampler"))
        chosen = config.parse(SamplerConfig, results.read_json(best)["sampler"], where=str(best))
        return cls.of(model, vae, chosen, device)

    @classmethod
    def of(
        cls, model: Path, vae: Path, sampler: SamplerConfig, device: str | torch.device | None = None
    ) -> "VideoPredictor":
        """The model and the VAE in these folders. Raises InputError if they do not belong together."""
        loaded = cls.load(model, vae, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        assert isinstance(loaded, VideoPredictor)
        loaded.sampler = sampler
        return loaded

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the frames that it takes and gives."""
        height, width = self.trained.model.latent[1:]
        return height * self.vae.strides[1], width * self.vae.strides[1]

    def with_settings(self, **settings: Any) -> SamplerConfig:
        """Its sampler with some settings of SamplerConfig changed. Raises InputError for what none has."""
        changed = config.parse(SamplerConfig, config.plain(self.sampler) | settings, where="sampler")
        if changed.sets < 1:
            raise InputError(f"sampler.sets is {changed.sets}; it must be at least 1")
        changed.check()
        return changed

    def prepare(self, video: Video, *, start: int = 0, context: int | None = None) -> Given:
        """The frames from `start` on, `context` of them or all, resized to what the model takes.

        A file, or uint8 frames of numpy or torch, `f h w c` or `f c h w`, RGB, of any size and number. Raises
        InputError for anything else.
        """
        size, notes = self.size, []
        frames = videos.read(Path(video), size).frames if isinstance(video, str | Path) else _frames(video)
        found = len(frames)
        if start < 0 or (context is not None and context < 1) or start + (context or 1) > found:
            wanted = "some" if context is None else context
            raise InputError(f"the video has {found} frames, so {wanted} from frame {start} on cannot be given")
        frames = frames[start : None if context is None else start + context]
        if tuple(frames.shape[-2:]) != size:
            notes.append(f"frames of {frames.shape[-2]} x {frames.shape[-1]} were resized to {size[0]} x {size[1]}")
            frames = videos.fit(frames, size)
        stride = self.vae.strides[0]
        count = 1 + min((len(frames) - 1) // stride, LONGEST_CONTEXT - 1) * stride
        if count < len(frames):
            notes.append(f"of {len(frames)} frames the last {count} are given: more do not fit the VAE or the model")
        return Given(frames[-count:].contiguous(), tuple(notes))

    def stream(
        self,
        video: Video | Given,
        *,
        frames: int = 16,
        futures: int = 1,
        seed: int = 0,
        words: str | None = None,
        **settings: Any,
    ) -> Iterator[Step]:
        """Continues a video; yields each predicted frame, with its canvas, as soon as it stands.

        All futures are made in one batch, future i of a seed is the same in any; `words` is the caption or label of
        the video, for a model that was trained under some; `settings` are those of SamplerConfig. What had to be done
        to the video is told by a warning. Raises InputError for bad input.
        """
        glimpses = self.glimpses(
            video, frames=frames, futures=futures, seed=seed, words=words, drafts=False, **settings
        )
        return (step for glimpse in glimpses for step in glimpse.steps())

    def glimpses(
        self,
        video: Video | Given,
        *,
        frames: int = 16,
        futures: int = 1,
        seed: int = 0,
        words: str | None = None,
        drafts: bool = True,
        **settings: Any,
    ) -> Iterator[Glimpse]:
        """What `stream` gives, latent frame after latent frame, and with `drafts` after each set of its tokens."""
        if frames < 1 or not 1 <= futures <= MOST_FUTURES:
            raise InputError(
                f"frames is {frames} and futures {futures}; take at least one of each, at most {MOST_FUTURES} futures"
            )
        given = video if isinstance(video, Given) else self.prepare(video)
        if not isinstance(video, Given):
            for note in given.notes:
                warnings.warn(note, stacklevel=2)
        sampler = self.with_settings(**settings)
        if words is not None and self.encoder is None:
            raise InputError("the model was trained without captions or labels; predict without words")
        stream = Stream.of(seed, range(futures), self.device)
        model = self.under(None if words is None else [words] * futures)
        return self._glimpses(model, [given], frames, stream, sampler, lambda share: drafts or share == 1)

    def together(
        self, videos: Sequence[Given], *, frames: int, seeds: Sequence[int], **settings: Any
    ) -> Iterator[Glimpse]:
        """The first future of each video and seed, in one batch; the videos must be equally long.

        Of each frame there are two glimpses, its canvas and the frame, so that the canvas can be shown first.
        """
        stream = Stream.of(seeds, [0] * len(seeds), self.device)
        sampler = self.with_settings(**settings)
        return self._glimpses(self.model, videos, frames, stream, sampler, lambda share: share in (0, 1))

    @torch.no_grad()
    def _glimpses(
        self,
        model: FramePredictor,
        videos: Sequence[Given],
        frames: int,
        stream: Stream,
        sampler: SamplerConfig,
        wanted: Callable[[float], bool],
    ) -> Iterator[Glimpse]:
        """Those whose share of tokens is wanted; no other is decoded."""
        latents = self.encode(torch.stack([given.frames for given in videos]))
        latents = latents.expand(max(len(videos), len(stream.samples)), -1, -1, -1, -1)
        before = len(videos[0].frames)
        total = self.vae.latent_frames(shortest(self.vae, before + frames)) - latents.shape[1]
        shown, canvas = 0, None
        for begin, draft in drafts(model, latents, total, stream, sampler):
            if not wanted(draft.share):
                continue
            group = draft.frames()[: total - begin]
            canvases = [frame.canvas for frame in group if frame.canvas is not None]
            if canvases and canvas is None:  # it is the same for all drafts of a frame, and all that the first one has
                canvas = self._newest(latents, torch.stack(canvases, dim=1))[:, : frames - shown]
            if draft.share or canvas is None:
                pictures = self._newest(latents, _filled(draft, len(group)))[:, : frames - shown]
            else:
                pictures = canvas
            staticness, order = (
                part.unflatten(-1, latents.shape[-2:]).cpu() for part in (group[-1].staticness, group[-1].order)
            )
            yield Glimpse(shown, draft.share, pictures, canvas, staticness, order, done=draft.share == 1)
            if draft.share == 1:
                latents = torch.cat([latents, torch.stack([frame.latent for frame in group], dim=1)], dim=1)
                shown, canvas = shown + pictures.shape[1], None

    def _newest(
        self, latents: Float[Tensor, "b t c h w"], newest: Float[Tensor, "b g c h w"]
    ) -> UInt8[Tensor, "b f c h w"]:
        """Pixels of the newest latent frames, decoded after as many of the older ones as they depend on."""
        count = newest.shape[1]
        past = latents if self.reach is None else latents[:, -self.reach :]
        frames = self.vae.decode(restore(torch.cat([past, newest], dim=1), self.mean, self.std))
        return to_uint8(frames[:, self.vae.pixel_frames(past.shape[1]) :][:, : count * self.vae.strides[0]]).cpu()

    @property
    def reach(self) -> int | None:
        """How many older latent frames are decoded with the newest one; None where it takes all."""
        if not self._probed:
            with exactly():  # TF32 rounds more than a frame beyond reach would change
                self._reach, self._probed = probe(self.vae, self.trained.model.latent, self.device), True
        return self._reach


def probe(vae: Autoencoder, latent: tuple[int, int, int], device: torch.device) -> int | None:
    """How many older latent frames a decoded one can depend on; None where it is all, or more than are tried.

    A number that is none spreads to whatever is computed from it, however small its weight. What that says is tried
    out on random latents, because a decoder that works in chunks depends on the place too.
    """
    if not vae.causal:
        return None
    stride, poisoned = vae.strides[0], 1
    latents = torch.zeros(1, LONGEST_PROBE, *latent, device=device)
    latents[:, : poisoned + 1] = torch.nan
    finite = vae.decode(latents).isfinite().flatten(2).all(dim=2)[0]
    finite = finite[vae.pixel_frames(poisoned + 1) :].unflatten(0, (-1, stride)).all(dim=1)
    if not finite[-1]:
        return None
    reach = len(finite) - int(finite.int().flip(0).cumprod(0).sum()) + 1  # one more: a first frame may be special
    latents = torch.randn(1, reach + 5, *latent, generator=torch.Generator().manual_seed(0)).to(device)
    for length in (reach + 2, reach + 3, reach + 5):
        whole, part = (vae.decode(latents[:, begin:length])[:, -stride:] for begin in (0, length - reach - 1))
        if not torch.allclose(whole, part, rtol=1e-3, atol=1e-3):
            return None
    return reach


def read_limited(path: Path, size: tuple[int, int], most: int) -> UInt8[Tensor, "f c h w"]:
    """The frames of a video from a stranger, resized. Raises InputError as `read` does, and for more than `most`."""
    found: list[Tensor] = []
    for chunk in videos.frames(path, size):
        found.append(chunk)
        if sum(map(len, found)) > most:
            raise InputError(f"{path} has more than {most} frames; cut it")
    return torch.cat(found)


def fetched(address: str, root: Path) -> Path:
    """A copy of a model in MLflow, such as models:/name@alias. Raises InputError if it cannot be had."""
    import mlflow

    where = tracking.uri(root)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=where))
    except Exception as error:  # MLflow's own, the network's, the file system's
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{address} cannot be fetched ({reason}); correct it, or MLFLOW_TRACKING_URI") from None


def rows(folder: Path | str) -> list[str]:
    """The trained rows of the project in this folder."""
    return sorted(path.parent.name for path in (Path(folder) / "data" / "models").glob(f"*/{checkpoint.WEIGHTS}"))


def autoencoder(data: Path, model: Path) -> Path:
    """The folder of the VAE that this model was trained with. Raises InputError if it is not there."""
    wanted = checkpoint.description(model, Trained).autoencoder
    for folder in sorted((data / "autoencoders").glob("*")):
        if (folder / checkpoint.WEIGHTS).is_file() and checkpoint.identity(folder) == wanted:
            return folder
    raise InputError(f"no VAE in {data / 'autoencoders'} is the one that {model} was trained with; run `dvc repro`")


def _filled(draft: Draft, count: int) -> Float[Tensor, "b g c h w"]:
    """The first `count` frames of a draft; where a token has not come, the canvas, or without one the mean of all."""
    frames, present, group = draft.frames()[:count], draft.present, draft.model.group
    filled = []
    for place, frame in enumerate(frames):
        known = present[place::group].unflatten(-1, frame.latent.shape[-2:])[:, None]
        blank = torch.zeros_like(frame.latent) if frame.canvas is None else frame.canvas
        filled.append(torch.where(known, frame.latent, blank))
    return torch.stack(filled, dim=1)


def _frames(video: np.ndarray | Tensor) -> UInt8[Tensor, "f c h w"]:
    """Frames of numpy or torch, their channels in the second place."""
    frames = torch.from_numpy(np.ascontiguousarray(video)) if isinstance(video, np.ndarray) else video.detach().cpu()
    if frames.ndim != 4 or frames.dtype != torch.uint8 or 3 not in (frames.shape[1], frames.shape[3]):
        raise InputError(
            f"the video is {frames.dtype} of shape {list(frames.shape)}; "
            "give uint8 RGB frames, f x height x width x 3 or f x 3 x height x width"
        )
    if 0 in frames.shape:
        raise InputError("the video has no frames; give at least one")
    return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)
