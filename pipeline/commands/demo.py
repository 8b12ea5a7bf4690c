"""Command `demo`: serve a web page on this machine that shows predictions of trained rows while they are computed."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from components.datasets import actions, resizing
from components.datasets.clips import Clips
from components.foundation.errors import InputError
from components.telemetry.progress import say
from components.video import video
from pipeline.commands.one_thread import compute, iterate
from pipeline.commands.prediction import inputs, rows
from pipeline.commands.prediction.live import InputVideo, LivePrediction
from pipeline.commands.video_predictor import VideoPredictor

MAX_BYTES: Final = 50 * 2**20  # of an upload
MAX_PREDICTED: Final = 64  # frames
FRAMES: Final = 16  # predicted, unless the visitor chooses
SAMPLES: Final = 8  # test clips of each data set to choose from
NONE: Final = "none"  # choice of the second row: show only one row
NOT_TRAINED: Final = """## No row is trained yet

`make repro` trains the default rows on simulated videos, in about twenty minutes on two cores.
Then run `make demo` again."""
SETTINGS: Final = ("temporal_scale", "canvas_scale", "sets", "temperature", "frame_noise", "canvas_noise")
CSS: Final = "#first,#second{padding:0} #first img,#second img{border-radius:6px}"


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
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, show_error=True, theme=theme, css=CSS,
            max_file_size=MAX_BYTES, prevent_thread_lock=not wait, footer_links=[],
        )  # fmt: skip
    except OSError:
        raise InputError(f"port {port} of this machine is in use; choose another with --port") from None


def build(root: Path, device: str | None) -> Any:
    """Return the page for all trained rows, or the shipped ones. Raise InputError if Gradio is not installed."""
    try:
        import gradio as gr
    except ModuleNotFoundError:
        raise InputError("the demo needs Gradio; install it with `pip install -e '.[demo]'`") from None
    if not (names := rows.trained(root) or rows.shipped(root)):
        say("demo: no row is trained, and pretrained/ has no weights; `make repro` trains the default rows")
        with gr.Blocks(title="CanvasMAR") as page:
            gr.Markdown(NOT_TRAINED)
        return page
    backend = Backend(root, {name: compute(VideoPredictor.open, root, name, device) for name in names})
    for predictor in backend.predictors.values():
        if predictor.row and predictor.row.notice:
            say(f"demo: {predictor.row.notice}; `make repro` trains it")

    def predict(*chosen: Any) -> Iterator[tuple[str, str, str]]:  # Gradio streams only generator functions
        yield from iterate(backend.predict(*chosen))

    first = backend.default_row()
    sampler = backend.predictors[first].sampler
    opening, status_line, film = compute(backend.opening, first)
    with gr.Blocks(title="CanvasMAR", delete_cache=(60, 60), analytics_enabled=False) as page:
        chosen = gr.State(opening)
        gr.Markdown("# What comes next?")
        pictures = [gr.HTML(film, elem_id="first"), gr.HTML(elem_id="second")]
        status = gr.Markdown(status_line, elem_id="status")
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        with gr.Row():
            sample = gr.Dropdown(backend.names, label="A sample clip", interactive=True)
            upload = gr.File(label="or a video of your own", file_types=sorted(video.SUFFIXES), height=110)
        with gr.Row():
            row = gr.Dropdown(names, value=first, label="Row")
            other = gr.Dropdown([NONE, *names], value=NONE, label="Second row, to compare")
        frames, seed, sliders = controls(gr, sampler, backend.predictors[first].model.tokens)
        sample.input(lambda name: compute(backend.load_sample, name), sample, chosen)
        upload.upload(lambda path: compute(backend.load_upload, path), upload, [chosen, upload, status])
        button.click(predict, [chosen, row, other, frames, seed, *sliders], [status, *pictures])
    return page


def controls(gr: Any, sampler: Any, tokens: int) -> tuple[Any, Any, list[Any]]:
    """Add the fields for frames, seed and sampler settings, each with a line that explains it, and return them."""
    with gr.Row():
        frames = gr.Slider(1, MAX_PREDICTED, FRAMES, step=1, label="Frames", info="How many frames to predict.")
        seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Another seed gives another future.")
    with gr.Row():
        sliders = [
            gr.Slider(
                0, 4, sampler.temporal_scale, label="Guidance: past", info="Above 1, the past has more influence."
            ),
            gr.Slider(
                0, 4, sampler.canvas_scale, label="Guidance: canvas", info="Above 1, the canvas has more influence."
            ),
            gr.Slider(1, tokens, sampler.sets, step=1, label="Sets", info="Steps for each frame; fewer are faster."),
            gr.Slider(
                0, 20, sampler.temperature, label="Temperature of the order",
                info="0 is a random order; the higher, the earlier come static tokens.",
            ),
            gr.Slider(
                0, 1, sampler.frame_noise, label="r: noise on the last frame",
                info="Above 0, the model trusts the last frame less.",
            ),
            gr.Slider(
                0, 1, sampler.canvas_noise, label="r': noise on the canvas",
                info="Above 0, the model trusts the canvas less.",
            ),
        ]  # fmt: skip
    return frames, seed, sliders


class Backend:
    """Callbacks of the page, and the predictors and test clips behind them."""

    def __init__(self, root: Path, predictors: dict[str, VideoPredictor]) -> None:
        self.predictors = predictors
        self.size = next(iter(predictors.values())).size
        self.samples: dict[str, Callable[[], InputVideo]] = {}  # name -> its reader
        for row, predictor in predictors.items():
            if predictor.row and predictor.row.shipped:
                self.samples[f"{row}: {rows.EXAMPLE}"] = partial(self.read_example, root, row)
        for folder in sorted((root / "data" / "clips").glob("*")):
            if folder.is_dir() and not folder.name.startswith("."):
                clips = Clips.open(folder, "test")
                for index in range(min(SAMPLES, len(clips))):
                    self.samples[clips.name(index)] = partial(self.read_clip, clips, index)
        self.names = list(self.samples)

    def default_row(self) -> str:
        """Return the first row with a canvas, or else the first row."""
        canvases = [row for row, one in self.predictors.items() if getattr(one.description.model, "canvas", None)]
        return next(iter([*canvases, *self.predictors]))

    def opening(self, row: str) -> tuple[InputVideo | None, str, str]:
        """Return the first sample with its prediction, so that the page begins with a film, and the first click is
        as fast as the next ones."""
        if not self.names:
            return None, "Upload a video, then press Predict.", ""
        chosen = self.load_sample(self.names[0])
        prediction = LivePrediction(row, self.predictors[row], chosen, FRAMES, 0, {})
        while prediction.advance():
            pass
        return chosen, prediction.status(), prediction.picture()

    def load_sample(self, name: str) -> InputVideo:
        """Return a clip of the test split, or a shipped example, with its truth and its actions."""
        return self.samples[name]()

    def read_clip(self, clips: Clips, index: int) -> InputVideo:
        """Return a clip of the test split; its first frames are the context."""
        frames = resizing.fit(clips.read([index])[0], self.size)
        commands = clips.annotations([index]).actions
        count = min(inputs.CONTEXT, max(1, len(frames) - 1))
        return InputVideo(clips.name(index), frames[:count], frames[count:], None if commands is None else commands[0])

    def read_example(self, root: Path, row: str) -> InputVideo:
        """Return the example of a shipped row; its first frames are the context."""
        file, commands = rows.example(root, row)
        found = inputs.read(file, self.size, None, start=0.0, frames=MAX_PREDICTED)
        table = None if commands is None else torch.from_numpy(actions.read(commands).videos[file.name]).float()
        return InputVideo(f"{row}: {file.name}", found.context, found.truth, table)

    def load_upload(self, path: str | None) -> tuple[InputVideo | None, None, str]:
        """Read the end of an uploaded file and delete the file.

        Return the video or None, None to reset the field, and a message.
        """
        if path is None:
            return None, None, ""
        file = Path(path)
        try:
            if file.stat().st_size > MAX_BYTES:
                raise InputError(f"{file.name} is larger than {MAX_BYTES // 2**20} MB; shorten it or choose another")
            predictor = self.predictors[self.default_row()]
            found = inputs.read(file, self.size, predictor.fps)
            chosen = InputVideo(file.name, found.context, found.truth)
            warning = predictor.unlike(predictor.prepare(found.context))
            message = f"**{file.name}**: {found.account}. Press Predict."
            return chosen, None, f"{message} It {warning}." if warning else message
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
