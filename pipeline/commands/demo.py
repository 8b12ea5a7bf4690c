"""Command `demo`: serve a web page on this machine that shows predictions of trained rows while they are computed."""

import base64
import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets import resizing
from components.datasets.clips import Clips
from components.foundation.errors import InputError
from components.pictures import galleries
from components.pictures.records import Gallery
from components.telemetry.progress import say
from components.video import excerpts, video
from pipeline.commands.one_thread import compute, iterate
from pipeline.commands.video_predictor import Context, PartialFrames, VideoPredictor, rows

MAX_BYTES: Final = 50 * 2**20  # of an upload
MAX_FRAMES: Final = 600  # of an upload
MAX_PREDICTED: Final = 64  # frames
SAMPLES: Final = 8  # test clips of each data set to choose from
NONE: Final = "none"  # choice of the second row: show only one row
NOT_TRAINED: Final = """## No row is trained yet

`make repro` trains the default rows on simulated videos, in about twenty minutes on two cores.
Then run `make demo` again."""
SETTINGS: Final = ("temporal_scale", "canvas_scale", "sets", "temperature", "frame_noise", "canvas_noise")


@dataclass(frozen=True, slots=True)
class InputVideo:
    """An uploaded video or a test clip, resized to the frame size of the models."""

    name: str
    frames: UInt8[Tensor, "f c h w"]


def run(root: Path, port: int, device: str | None) -> None:
    """Serve the page on this machine's loopback until Ctrl-C."""
    page = build(root, device)
    say(f"demo: http://127.0.0.1:{port}\nPress Ctrl-C to stop the server.")
    launch(page, port, wait=True)


def launch(page: Any, port: int, *, wait: bool) -> None:
    """Start the server on loopback; if `wait`, block until Ctrl-C. Raise InputError if the port is in use."""
    import gradio

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # downloads no web fonts
    try:
        page.queue(max_size=8, default_concurrency_limit=1).launch(
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, show_error=True, theme=theme,
            max_file_size=MAX_BYTES, prevent_thread_lock=not wait, footer_links=[],
        )  # fmt: skip
    except OSError:
        raise InputError(f"port {port} of this machine is in use; choose another with --port") from None


def build(root: Path, device: str | None) -> Any:
    """Return the page for all trained rows of the project. Raise InputError if Gradio is not installed."""
    try:
        import gradio as gr
    except ModuleNotFoundError:
        raise InputError("the demo needs Gradio; install it with `pip install -e '.[demo]'`") from None
    if not (names := rows(root)):
        with gr.Blocks(title="CanvasMAR") as page:
            gr.Markdown(NOT_TRAINED)
        return page
    backend = Backend(root, {name: compute(VideoPredictor.open, root, name, device) for name in names})

    def predict(*inputs: Any) -> Iterator[tuple[str, str, str]]:  # Gradio streams only generator functions
        yield from iterate(backend.predict(*inputs))

    first, second = backend.default_rows()
    sampler = backend.predictors[first].sampler
    with gr.Blocks(title="CanvasMAR", delete_cache=(60, 60), analytics_enabled=False) as page:
        chosen = gr.State(compute(backend.load_sample, backend.samples[0]) if backend.samples else None)
        gr.Markdown("# What comes next?\nA canvas of the whole frame comes first, then its tokens set by set.")
        with gr.Row():
            sample = gr.Dropdown(backend.samples, label="A sample clip", interactive=True)
            upload = gr.File(label="or a video of your own", file_types=sorted(video.SUFFIXES), height=110)
        with gr.Row():
            row = gr.Dropdown(names, value=first, label="Row")
            other = gr.Dropdown([NONE, *names], value=second, label="Second row")
            frames = gr.Slider(1, MAX_PREDICTED, 8, step=1, label="Frames")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        with gr.Row():
            sliders = [
                gr.Slider(0, 4, sampler.temporal_scale, label="Guidance: past"),
                gr.Slider(0, 4, sampler.canvas_scale, label="Guidance: canvas"),
                gr.Slider(1, backend.predictors[first].model.tokens, sampler.sets, step=1, label="Sets"),
                gr.Slider(0, 20, sampler.temperature, label="Temperature of the order"),
                gr.Slider(0, 1, sampler.frame_noise, label="r: noise on the last frame"),
                gr.Slider(0, 1, sampler.canvas_noise, label="r': noise on the canvas"),
            ]
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        status = gr.Markdown(elem_id="status")
        pictures = [gr.HTML(elem_id="first"), gr.HTML(elem_id="second")]
        sample.input(lambda name: compute(backend.load_sample, name), sample, chosen)
        upload.upload(lambda path: compute(backend.load_upload, path), upload, [chosen, upload, status])
        button.click(predict, [chosen, row, other, frames, seed, *sliders], [status, *pictures])
    return page


class Backend:
    """Callbacks of the page, and the predictors and test clips behind them."""

    def __init__(self, root: Path, predictors: dict[str, VideoPredictor]) -> None:
        self.predictors = predictors
        self.size = next(iter(predictors.values())).size
        folders = sorted((root / "data" / "clips").glob("*"))
        self.clips = [Clips.open(folder, "test") for folder in folders if folder.is_dir()]
        self.locations = {  # name of a test clip -> its data set and index
            clips.name(index): (clips, index) for clips in self.clips for index in range(min(SAMPLES, len(clips)))
        }
        self.samples = list(self.locations)

    def default_rows(self) -> tuple[str, str]:
        """Return the first row with a canvas (else the first row) and the first without one (else NONE)."""
        canvases = {
            row: getattr(predictor.description.model, "canvas", None) for row, predictor in self.predictors.items()
        }
        first = next((row for row, canvas in canvases.items() if canvas), next(iter(canvases)))
        return first, next((row for row, canvas in canvases.items() if not canvas and row != first), NONE)

    def load_sample(self, name: str) -> InputVideo:
        """Return a clip of the test split."""
        clips, index = self.locations[name]
        return InputVideo(name, resizing.fit(clips.read([index])[0], self.size))

    def load_upload(self, path: str | None) -> tuple[InputVideo | None, None, str]:
        """Read an uploaded file and delete it; return the video or None, None to reset the field, and a message."""
        if path is None:
            return None, None, ""
        file = Path(path)
        try:
            if file.stat().st_size > MAX_BYTES:
                raise InputError(f"{file.name} is larger than {MAX_BYTES // 2**20} MB; shorten it or choose another")
            chosen = InputVideo(file.name, excerpts.limited(file, self.size, MAX_FRAMES))
            count = len(chosen.frames)
            return chosen, None, f"**{file.name}**: {count} frames; the first one is the context. Press Predict."
        except InputError as error:
            return None, None, f"**{str(error).replace(str(file), file.name)}**"
        finally:
            file.unlink(missing_ok=True)

    def predict(
        self, chosen: InputVideo | None, row: str, other: str, frames: int, seed: int, *settings: float
    ) -> Iterator[tuple[str, str, str]]:
        """Yield the status and a picture of each experiment after each set; `settings` are ordered as SETTINGS."""
        if chosen is None:
            yield "**Choose a sample clip or upload a video first.**", "", ""
            return
        changed = dict(zip(SETTINGS, settings, strict=True)) | {"sets": int(settings[2])}
        count = min(int(frames), MAX_PREDICTED)
        try:
            predictions = [
                LivePrediction(name, self.predictors[name], chosen, count, int(seed or 0), changed)
                for name in dict.fromkeys((row, other))
                if name != NONE
            ]
            while sum(one.advance() for one in predictions):  # sum, unlike any, advances every row
                pictures = [one.picture() for one in predictions]
                yield " · ".join(one.status() for one in predictions), pictures[0], pictures[1] if pictures[1:] else ""
        except InputError as error:
            yield f"**{error}**", "", ""


class LivePrediction:
    """The prediction of one row in progress, with its times; they exclude the time between two calls of `advance`."""

    def __init__(
        self, name: str, predictor: VideoPredictor, chosen: InputVideo, frames: int, seed: int, settings: dict[str, Any]
    ) -> None:
        self.name, self.frames = name, frames
        self.context: Context = predictor.prepare(chosen.frames, context=1)
        self.truth = chosen.frames[1 : 1 + frames]
        self.parts = predictor.partial_frames(self.context, frames=frames, seed=seed, **settings)
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

    def picture(self) -> str:
        """Return all frames so far as one HTML image."""
        assert self.newest is not None
        parts = self.done if self.newest.done else [*self.done, self.newest]

        def stacked(name: str) -> Any:
            tensors = [getattr(part, name)[0] for part in parts]
            if name in ("staticness", "order"):  # one map for all pixel frames of a part
                tensors = [maps.expand(part.frames.shape[1], -1, -1) for maps, part in zip(tensors, parts, strict=True)]
            return self._padded(torch.cat(tensors))

        gallery = Gallery(
            names=(self.name,),
            reasons=("",),
            context=self.context.frames[None].numpy(),
            truth=self._padded(self.truth),
            sample=stacked("frames"),
            canvas=None if self.newest.canvas is None else stacked("canvas"),
            staticness=stacked("staticness"),
            order=stacked("order").astype("int32"),
        )
        count = sum(part.frames.shape[1] for part in parts)
        sheet = galleries.sheet(galleries.filmstrip(gallery, 0, truth_frames=len(self.truth), predicted_frames=count))
        image = base64.b64encode(sheet).decode()
        return f'<img alt="{html.escape(self.name)}" style="width:100%" src="data:image/png;base64,{image}">'

    def _padded(self, frames: Tensor) -> Any:
        """Return frames as a batch of one clip of full length; missing frames are black."""
        missing = frames.new_zeros(self.frames - len(frames), *frames.shape[1:])
        return torch.cat([frames, missing])[None].numpy()
