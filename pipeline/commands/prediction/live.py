"""A prediction in progress for the demo's page: its times, its film and its strip."""

import base64
import html
import io
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.pictures import galleries, panels
from components.pictures.panels import Panel
from components.pictures.records import Gallery
from pipeline.commands.video_predictor import Context, PartialFrames, VideoPredictor

FPS: Final = 8.0  # of the film, for a model whose training clips have no known rate
SIDE: Final = 192  # pixels; frames are enlarged up to about this height
FILM: Final = "width:100%;max-width:{}px;image-rendering:pixelated;display:block;margin:auto"


@dataclass(frozen=True, slots=True)
class InputVideo:
    """A test clip or an uploaded video at the frame size of the models: its context, and the truth after it."""

    name: str
    context: UInt8[Tensor, "f c h w"]
    truth: UInt8[Tensor, "f c h w"]  # may be empty
    actions: Float[Tensor, "f i"] | None = None  # of context and truth, and possibly of frames after them


class LivePrediction:
    """The prediction of one row in progress, with its times; they exclude the time between two calls of `advance`."""

    def __init__(
        self, name: str, predictor: VideoPredictor, chosen: InputVideo, frames: int, seed: int, settings: dict[str, Any]
    ) -> None:
        self.name, self.frames, self.fps = name, frames, predictor.fps or FPS
        self.context: Context = predictor.prepare(chosen.context)
        self.truth = chosen.truth[:frames]
        actions = fitting_actions(predictor, chosen, frames)
        self.parts = predictor.partial_frames(self.context, frames=frames, seed=seed, actions=actions, **settings)
        self.done: list[PartialFrames] = []
        self.newest: PartialFrames | None = None
        self.seconds, self.first = 0.0, {"canvas": 0.0, "frame": 0.0}  # seconds in total, and to the first of each

    def advance(self) -> bool:
        """Sample one more set; return whether there was one."""
        started = time.perf_counter()
        part = next(self.parts, None)
        self.seconds += time.perf_counter() - started
        if part is None:
            return False
        self.newest = part
        if part.done:
            self.done.append(part)
        for name, available in (("canvas", part.canvas is not None), ("frame", part.done)):
            if available and not self.first[name]:
                self.first[name] = self.seconds
        return True

    def status(self) -> str:
        """Return the times so far as one line of Markdown."""
        times = [f"first {name} after {1000 * seconds:.0f} ms" for name, seconds in self.first.items() if seconds]
        count = sum(part.frames.shape[1] for part in self.done)
        mean = f"{1000 * self.seconds / count:.0f} ms per frame" if count else "..."
        return f"**{self.name}** {', '.join([*times, mean])}"

    @property
    def finished(self) -> bool:
        """Whether all frames are predicted."""
        return sum(part.frames.shape[1] for part in self.done) == self.frames

    def picture(self) -> str:
        """Return the newest frame as HTML; when all frames are predicted, the film, and below it the strip."""
        assert self.newest is not None
        shown = self._panels()
        context, scale = len(self.context.frames), max(1, SIDE // self.context.frames.shape[-1])
        if self.finished:
            film = image(self.name, panels.animation(shown, context, scale, self.fps), "webp", self._film_style(shown))
            strip = image(f"{self.name}, frame by frame", self._sheet(), "png", "max-width:none;height:420px")
            return f'{film}<div style="overflow-x:auto;margin-top:12px">{strip}</div>'
        newest = context + self.newest.index + self.newest.frames.shape[1] - 1
        file = io.BytesIO()
        panels.picture(shown, newest, context, scale).save(file, "PNG", compress_level=1)
        return image(self.name, file.getvalue(), "png", self._film_style(shown))

    def _film_style(self, shown: list[Panel]) -> str:
        return FILM.format(len(shown) * 280)

    def _panels(self) -> list[Panel]:
        """Return truth, canvas and prediction after the context; without truth or canvas, not these."""
        parts = self._parts()
        clips = {"truth": self.truth, "prediction": torch.cat([part.frames[0] for part in parts])}
        canvases = [part.canvas[0] for part in parts if part.canvas is not None]
        if canvases:
            clips = {"truth": self.truth, "canvas": torch.cat(canvases), "prediction": clips["prediction"]}
        total = len(self.context.frames) + self.frames
        found = []
        for name, frames in clips.items():
            if len(frames):
                present = np.arange(total) < len(self.context.frames) + len(frames)
                whole = torch.cat([self.context.frames, self._padded(frames)])
                found.append(Panel(name, whole.numpy(), present))
        return found

    def _sheet(self) -> bytes:
        """Return all lanes of the prediction as a PNG."""
        parts = self._parts()

        def stacked(name: str) -> Any:
            tensors = [getattr(part, name)[0] for part in parts]
            if name in ("staticness", "order"):  # one map for all pixel frames of a part
                tensors = [maps.expand(part.frames.shape[1], -1, -1) for maps, part in zip(tensors, parts, strict=True)]
            return self._padded(torch.cat(tensors))[None].numpy()

        gallery = Gallery(
            names=(self.name,),
            reasons=("",),
            context=self.context.frames[None].numpy(),
            truth=self._padded(self.truth)[None].numpy(),
            sample=stacked("frames"),
            canvas=None if parts[0].canvas is None else stacked("canvas"),
            staticness=stacked("staticness"),
            order=stacked("order").astype("int32"),
        )
        return galleries.sheet(galleries.filmstrip(gallery, 0, truth_frames=len(self.truth)))

    def _parts(self) -> list[PartialFrames]:
        assert self.newest is not None
        return self.done if self.newest.done else [*self.done, self.newest]

    def _padded(self, frames: Tensor) -> Tensor:
        """Return frames of full length; missing frames are black."""
        return torch.cat([frames, frames.new_zeros(self.frames - len(frames), *frames.shape[1:])])


def fitting_actions(predictor: VideoPredictor, chosen: InputVideo, frames: int) -> Float[Tensor, "f i"] | None:
    """Return the actions of context and predicted frames if the model takes such actions; the last one is repeated."""
    scale, rows = predictor.description.actions, chosen.actions
    if scale is None or rows is None or rows.shape[1] != len(scale.columns):
        return None
    needed = len(chosen.context) + frames
    return torch.cat([rows, rows[-1:].expand(max(0, needed - len(rows)), -1)])[:needed]


def image(name: str, content: bytes, kind: str, style: str) -> str:
    """Return an HTML image that holds its own content."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(name)}" style="{style}" src="data:image/{kind};base64,{data}">'
