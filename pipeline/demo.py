"""Command `demo`: a page on this machine where trained rows continue a video before one's eyes."""

import argparse
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

from components.data import video
from components.data.clips import Clips
from components.errors import InputError
from components.reporting import galleries
from components.reporting.results import Gallery
from pipeline import stage
from pipeline.one_thread import compute, through
from pipeline.progress import say
from pipeline.video_predictor import Given, Glimpse, VideoPredictor, read_limited, rows

MOST_BYTES: Final = 50 * 2**20  # of an upload
MOST_FRAMES: Final = 600  # of an upload
MOST_PREDICTED: Final = 64
SAMPLES: Final = 8  # clips to choose from
NONE: Final = "none"
NOT_TRAINED: Final = """## Nothing is trained here yet

`make repro` trains the default on videos that it makes itself, a quarter of an hour on two cores.
Then start `make demo` again."""
SETTINGS: Final = ("temporal_scale", "canvas_scale", "sets", "temperature", "frame_noise", "canvas_noise")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A video as it was uploaded or chosen, at the size that the models take."""

    name: str
    frames: UInt8[Tensor, "f c h w"]


def main() -> None:
    """Serves the page on this machine's loopback until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo", description=main.__doc__)
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    arguments = parser.parse_args()
    with stage.command() as root:
        page = build(root, arguments.device)
        say(f"demo: http://127.0.0.1:{arguments.port}\nCtrl-C ends it")
        launch(page, arguments.port, wait=True)


def launch(page: Any, port: int, *, wait: bool) -> None:
    """Starts the server, on loopback alone. Raises InputError if the port is taken."""
    import gradio

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    try:
        page.queue(max_size=8, default_concurrency_limit=1).launch(
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, show_error=True, theme=theme,
            max_file_size=MOST_BYTES, prevent_thread_lock=not wait, footer_links=[],
        )  # fmt: skip
    except OSError:
        raise InputError(f"port {port} of this machine is taken; choose another with --port") from None


def build(root: Path, device: str | None) -> Any:
    """The page for the rows that are trained in this project. Raises InputError if Gradio is not installed."""
    try:
        import gradio as gr
    except ModuleNotFoundError:
        raise InputError("the demo needs Gradio; install it with `pip install -e '.[demo]'`") from None
    if not (names := rows(root)):
        with gr.Blocks(title="CanvasMAR") as page:
            gr.Markdown(NOT_TRAINED)
        return page
    theatre = Theatre(root, {name: compute(VideoPredictor.open, root, name, device) for name in names})

    def play(*given: Any) -> Iterator[tuple[str, str, str]]:  # a generator, as Gradio must see
        yield from through(theatre.play(*given))

    first, second = theatre.beside()
    sampler = theatre.predictors[first].sampler
    with gr.Blocks(title="CanvasMAR", delete_cache=(60, 60), analytics_enabled=False) as page:
        chosen = gr.State(compute(theatre.sample, theatre.samples[0]) if theatre.samples else None)
        gr.Markdown("# What comes next?\nA canvas of the whole frame comes first, then its tokens set by set.")
        with gr.Row():
            sample = gr.Dropdown(theatre.samples, label="A sample clip", interactive=True)
            upload = gr.File(label="or a video of your own", file_types=sorted(video.SUFFIXES), height=110)
        with gr.Row():
            run = gr.Dropdown(names, value=first, label="Run")
            other = gr.Dropdown([NONE, *names], value=second, label="beside it")
            frames = gr.Slider(1, MOST_PREDICTED, 8, step=1, label="Frames")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        with gr.Row():
            sliders = [
                gr.Slider(0, 4, sampler.temporal_scale, label="Guidance: past"),
                gr.Slider(0, 4, sampler.canvas_scale, label="Guidance: canvas"),
                gr.Slider(1, theatre.predictors[first].model.tokens, sampler.sets, step=1, label="Sets"),
                gr.Slider(0, 20, sampler.temperature, label="Temperature of the order"),
                gr.Slider(0, 1, sampler.frame_noise, label="r: noise on the last frame"),
                gr.Slider(0, 1, sampler.canvas_noise, label="r': noise on the canvas"),
            ]
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        told = gr.Markdown(elem_id="told")
        shown = [gr.HTML(elem_id="first"), gr.HTML(elem_id="second")]
        sample.input(lambda name: compute(theatre.sample, name), sample, chosen)
        upload.upload(lambda path: compute(theatre.receive, path), upload, [chosen, upload, told])
        button.click(play, [chosen, run, other, frames, seed, *sliders], [told, *shown])
    return page


class Theatre:
    """What happens behind the page's buttons."""

    def __init__(self, root: Path, predictors: dict[str, VideoPredictor]) -> None:
        self.predictors = predictors
        self.size = next(iter(predictors.values())).size
        folders = sorted((root / "data" / "clips").glob("*"))
        self.clips = [Clips.open(folder, "test") for folder in folders if folder.is_dir()]
        self.places = {
            clips.name(index): (clips, index) for clips in self.clips for index in range(min(SAMPLES, len(clips)))
        }
        self.samples = list(self.places)

    def beside(self) -> tuple[str, str]:
        """A row with a canvas and one without, or what comes nearest."""
        having = {name: getattr(one.trained.model, "canvas", None) for name, one in self.predictors.items()}
        first = next((name for name, canvas in having.items() if canvas), next(iter(having)))
        return first, next((name for name, canvas in having.items() if not canvas and name != first), NONE)

    def sample(self, name: str) -> Chosen:
        """A clip of the test split."""
        clips, index = self.places[name]
        return Chosen(name, video.fit(clips.read([index])[0], self.size))

    def receive(self, path: str | None) -> tuple[Chosen | None, None, str]:
        """An upload: read, and its file removed whatever came of it."""
        if path is None:
            return None, None, ""
        file = Path(path)
        try:
            if file.stat().st_size > MOST_BYTES:
                raise InputError(f"{file.name} is larger than {MOST_BYTES // 2**20} MB; cut it or choose another")
            chosen = Chosen(file.name, read_limited(file, self.size, MOST_FRAMES))
            return chosen, None, f"**{file.name}**: {len(chosen.frames)} frames, the first is given. Press Predict."
        except InputError as error:
            return None, None, f"**{str(error).replace(str(file), file.name)}**"
        finally:
            file.unlink(missing_ok=True)

    def play(
        self, chosen: Chosen | None, run: str, other: str, frames: int, seed: int, *settings: float
    ) -> Iterator[tuple[str, str, str]]:
        """A sentence and the two films, again and again while they are made."""
        if chosen is None:
            yield "**Choose a sample clip or upload a video first.**", "", ""
            return
        changed = dict(zip(SETTINGS, settings, strict=True)) | {"sets": int(settings[2])}
        try:
            scenes = [
                Scene(name, self.predictors[name], chosen, min(int(frames), MOST_PREDICTED), int(seed or 0), changed)
                for name in dict.fromkeys((run, other))
                if name != NONE
            ]
            while sum(scene.advance() for scene in scenes):  # all of them, every time
                pictures = [scene.picture() for scene in scenes]
                yield " · ".join(scene.told() for scene in scenes), pictures[0], pictures[1] if pictures[1:] else ""
        except InputError as error:
            yield f"**{error}**", "", ""


class Scene:
    """One run's film while it is made; its clock runs only while it computes."""

    def __init__(
        self, name: str, predictor: VideoPredictor, chosen: Chosen, frames: int, seed: int, settings: dict[str, Any]
    ) -> None:
        self.name, self.frames = name, frames
        self.given: Given = predictor.prepare(chosen.frames, context=1)
        self.truth = chosen.frames[1 : 1 + frames]
        self.glimpses = predictor.glimpses(self.given, frames=frames, seed=seed, **settings)
        self.done: list[Glimpse] = []
        self.newest: Glimpse | None = None
        self.seconds, self.first = 0.0, {"canvas": 0.0, "frame": 0.0}

    def advance(self) -> bool:
        """One set further; false when there is no more."""
        began = time.perf_counter()
        glimpse = next(self.glimpses, None)
        self.seconds += time.perf_counter() - began
        if glimpse is None:
            return False
        self.newest = glimpse
        if glimpse.done:
            self.done.append(glimpse)
        for name, there in (("canvas", glimpse.canvas is not None), ("frame", glimpse.done)):
            if there and not self.first[name]:
                self.first[name] = self.seconds
        return True

    def told(self) -> str:
        """The times so far."""
        times = [f"first {name} after {1000 * at:.0f} ms" for name, at in self.first.items() if at]
        count = sum(glimpse.frames.shape[1] for glimpse in self.done)
        each = f"{1000 * self.seconds / count:.0f} ms a frame" if count else "..."
        return f"**{self.name}** {', '.join([*times, each])}"

    def picture(self) -> str:
        """The film so far as an image inside the page."""
        assert self.newest is not None
        parts = self.done if self.newest.done else [*self.done, self.newest]

        def of(name: str) -> Any:
            pieces = [getattr(part, name)[0] for part in parts]
            if name in ("staticness", "order"):  # one map for all frames of a latent one
                pieces = [piece.expand(part.frames.shape[1], -1, -1) for piece, part in zip(pieces, parts, strict=True)]
            return self._padded(torch.cat(pieces))

        gallery = Gallery(
            names=(self.name,),
            reasons=("",),
            context=self.given.frames[None].numpy(),
            truth=self._padded(self.truth),
            sample=of("frames"),
            canvas=None if self.newest.canvas is None else of("canvas"),
            staticness=of("staticness"),
            order=of("order").astype("int32"),
        )
        made = sum(part.frames.shape[1] for part in parts)
        sheet = galleries.sheet(galleries.film(gallery, 0, known=len(self.truth), made=made))
        image = base64.b64encode(sheet).decode()
        return f'<img alt="{html.escape(self.name)}" style="width:100%" src="data:image/png;base64,{image}">'

    def _padded(self, frames: Tensor) -> Any:
        """A clip of one with as many frames as there will be; those that have not come are black."""
        missing = frames.new_zeros(self.frames - len(frames), *frames.shape[1:])
        return torch.cat([frames, missing])[None].numpy()


if __name__ == "__main__":
    main()
