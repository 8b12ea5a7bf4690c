"""Command `predict`: video files in, their continuations out, with what led to them."""

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from components import config, tracking
from components.data import video
from components.errors import InputError
from components.reporting import galleries
from components.reporting.results import Gallery
from pipeline import stage
from pipeline.progress import complain, say
from pipeline.video_predictor import Given, Step, VideoPredictor

FPS = 8  # of the videos to look at
SIDE = 256  # pixels that a small frame is enlarged to, about
TIMING = "timing.json"


@dataclass(frozen=True, slots=True)
class Made:
    """The continuation of one video: all steps, the truth as far as the video goes, and how long it took."""

    name: str
    given: Given
    truth: UInt8[Tensor, "f c h w"]
    steps: list[Step]
    timing: dict[str, Any]

    def stacked(self, name: str, future: int = 0) -> Tensor:
        """One part of all steps, of one future."""
        return torch.stack([getattr(step, name)[future] for step in self.steps])


def main() -> None:
    """Continues videos with a trained experiment.

    Writes for each an mp4 and a GIF of the frames that were given and their continuations, a PNG strip, an mp4 of
    truth, canvas, order and prediction side by side, and for all together timing.json.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=main.__doc__)
    parser.add_argument("video", type=Path, help="a video file, or a folder of them")
    parser.add_argument("--row", required=True, help="a trained entry of the table experiments in params.yaml")
    parser.add_argument("--start", type=int, default=0, help="the first frame that is given (default: 0)")
    parser.add_argument("--context", type=int, default=1, help="frames that are given (default: 1)")
    parser.add_argument("--frames", type=int, default=16, help="frames that are predicted (default: 16)")
    parser.add_argument("--futures", type=int, default=1, help="futures of each seed, made together (default: 1)")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="other seeds, other futures (default: 0)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", dest="settings",
        help="settings of the sampler other than those that the search chose, such as sets=8 temporal_scale=1.5",
    )  # fmt: skip
    parser.add_argument("--words", help="the caption or label, for a row that was trained under some (default: none)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: predictions/<row>)")
    arguments = parser.parse_args()
    with stage.command() as root:
        run(arguments, root)


def run(arguments: argparse.Namespace, root: Path) -> None:
    """Predicts, writes and logs; a bad file in a folder is named and passed over.

    Raises InputError for a video that is no use, or if none is, and for an experiment that is not trained.
    """
    predictor = VideoPredictor.open(root, arguments.row, arguments.device)
    sampler = predictor.with_settings(**settings(arguments.settings))
    files, out = named(arguments.video), arguments.out or root / "predictions" / arguments.row
    parameters = {"video": str(arguments.video), "row": arguments.row, "frames": arguments.frames}
    parameters |= {"futures": arguments.futures, "seed": arguments.seed, **config.plain(sampler)}
    tags = {"stage": "predict", "row": arguments.row, **tracking.provenance(root)}
    with tracking.run(f"predict@{arguments.row}", root=root, tags=tags, parameters=parameters) as log:
        timings, failed = [], {}
        for name, file in files.items():
            try:
                for seed in arguments.seed:
                    called = f"{name}-seed{seed}" if len(arguments.seed) > 1 else name
                    made = continued(predictor, file, called, seed, arguments, config.plain(sampler))
                    timings.append(made.timing)
                    for path in write(out, made):
                        log.artifact(path)
                    say(f"predict: {out / called}.mp4, .gif, .png and {called}-panels.mp4")
            except InputError as error:
                if arguments.video.is_file():
                    raise
                failed[str(file)] = str(error)
                complain(f"  passed over: {error}")
        if not timings:
            raise InputError(f"no video in {arguments.video} could be continued; the lines above say why")
        content = {"device": str(predictor.device), "row": arguments.row, "predictions": timings, "failed": failed}
        (out / TIMING).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        log.artifact(out / TIMING)
        log.metrics({key: np.mean([one[key] for one in timings]) for key in ("first_frame_ms", "frames_per_second")})
        say(f"  times {out / TIMING}\n  MLflow run {log.link}")


def named(path: Path) -> dict[str, Path]:
    """The videos of a folder, or the one file, by a name of its own each. Raises InputError for a folder without."""
    if not path.is_dir():
        return {path.stem: path}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in video.SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{path} holds no video files; name a file or a folder with some")
    often = Counter(file.stem for file in files)
    names = {file: file.stem if often[file.stem] == 1 else "-".join(file.relative_to(path).parts) for file in files}
    return {name: file for file, name in names.items()}


def settings(words: list[str]) -> dict[str, Any]:
    """Settings out of NAME=VALUE, the value as YAML reads it. Raises InputError for what is no such pair."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise InputError(f"--set {word} is not NAME=VALUE; write for example --set sets=8")
        found[name] = config.value(value)
    return found


def continued(
    predictor: VideoPredictor, file: Path, name: str, seed: int, arguments: argparse.Namespace, sampler: dict[str, Any]
) -> Made:
    """The continuation of one file. Raises InputError for a file that is no use."""
    began = time.perf_counter()
    frames = video.read(file, predictor.size).frames
    given = predictor.prepare(frames, start=arguments.start, context=arguments.context)
    for note in given.notes:
        say(f"  {file}: {note}")
    end = arguments.start + arguments.context
    marks = [time.perf_counter()]
    steps = []
    many = {"frames": arguments.frames, "futures": arguments.futures}
    for step in predictor.stream(given, **many, seed=seed, words=arguments.words, **sampler):
        steps.append(step)
        marks.append(time.perf_counter())
    timing = {
        "video": str(file),
        "name": name,
        "seed": seed,
        "words": arguments.words,
        **many,
        "read_ms": 1000 * (marks[0] - began),
        "first_frame_ms": 1000 * (marks[1] - marks[0]),
        "total_ms": 1000 * (marks[-1] - marks[0]),
        "frames_per_second": arguments.frames * arguments.futures / (marks[-1] - marks[0]),
        "frame_ms": [round(1000 * (mark - marks[0]), 3) for mark in marks[1:]],
        "notes": list(given.notes),
        "sampler": sampler,
    }
    return Made(name, given, frames[end : end + arguments.frames], steps, timing)


def write(out: Path, made: Made) -> list[Path]:
    """Everything there is to look at, as files."""
    futures = [
        torch.cat([made.given.frames, made.stacked("frame", future)]) for future in range(made.timing["futures"])
    ]
    side_by_side = enlarged(torch.cat(futures, dim=-1), made.given.frames.shape[-2])
    paths = [out / f"{made.name}{ending}" for ending in (".mp4", ".gif", ".png", "-panels.mp4")]
    video.write(paths[0], side_by_side, FPS)
    video.write_gif(paths[1], side_by_side, FPS)
    video.write(paths[3], enlarged(panels(made), made.given.frames.shape[-2]), FPS)
    gallery = look(made)
    paths[2].write_bytes(galleries.sheet(galleries.film(gallery, 0, known=len(made.truth))))
    return paths


def look(made: Made) -> Gallery:
    """The first future as a gallery of one clip; truth that is not there is black."""
    sample = made.stacked("frame")
    truth = torch.zeros_like(sample)
    truth[: len(made.truth)] = made.truth
    canvas = None if made.steps[0].canvas is None else made.stacked("canvas")[None].numpy()
    return Gallery(
        names=(made.name,),
        reasons=("",),
        context=made.given.frames[None].numpy(),
        truth=truth[None].numpy(),
        sample=sample[None].numpy(),
        canvas=canvas,
        staticness=made.stacked("staticness")[None].numpy(),
        order=made.stacked("order").int()[None].numpy(),
    )


def panels(made: Made) -> UInt8[Tensor, "f c h _"]:
    """Side by side: truth where known, canvas where there is one, the order over the prediction, the prediction."""
    sample, order = made.stacked("frame"), made.stacked("order").float()
    parts = []
    if len(made.truth):
        still = torch.zeros(len(sample) - len(made.truth), *sample.shape[1:], dtype=torch.uint8)
        parts.append(torch.cat([made.truth, still]))
    if made.steps[0].canvas is not None:
        parts.append(made.stacked("canvas"))
    turns = (order / order.max().clamp(min=1)).numpy()
    parts += [torch.from_numpy(galleries.overlay(sample.numpy(), turns, galleries.ORDER_SCALE)), sample]
    return torch.cat(parts, dim=-1)


def enlarged(clip: UInt8[Tensor, "f c h w"], height: int) -> UInt8[Tensor, "f c _ _"]:
    """A clip of small frames, every pixel a square of pixels."""
    times = max(1, SIDE // height)
    return clip.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


if __name__ == "__main__":
    main()
