"""Command `predict`: predict the next frames of video files, and write videos, pictures and times."""

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.datasets import actions
from components.datasets.written.names import plain
from components.foundation import config
from components.foundation.errors import InputError
from components.foundation.files import write_json
from components.pictures import galleries, panels
from components.pictures.panels import Panel
from components.pictures.records import Gallery
from components.sources import folders
from components.telemetry import tracking
from components.telemetry.progress import complain, say
from components.video import video
from pipeline.commands.prediction import inputs, rows
from pipeline.commands.video_predictor import Context, Step, VideoPredictor

FPS = 8  # of the output videos
SIDE = 256  # pixels; smaller frames are enlarged up to about this height
TIMING = "timing.json"
LANES = {"sample": "prediction"}  # names of the strip's rows
ENDINGS = (".mp4", ".gif", ".png", "-panels.mp4")  # of the output files of one prediction
LONGEST_NAME = 200  # bytes of an output file's name before its seed and ending; file systems allow 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of the command `canvasmar predict`."""

    video: Path | None  # file or folder; None for the example of shipped weights
    row: str
    start: float | None  # seconds from the start of the video to the context; None for the end of the video
    context: int | None  # None for inputs.CONTEXT, or all frames of a shorter video
    frames: int
    futures: int
    seeds: list[int]
    settings: list[str]  # sampler settings, as NAME=VALUE
    words: str | None  # caption or label
    actions: Path | None
    device: str | None
    out: Path | None
    scale: int | None  # how many times larger the pictures are than the model's frames; None for about SIDE pixels


@dataclass(frozen=True, slots=True)
class PredictedVideo:
    """The predicted frames of one video, with its context and its true frames."""

    name: str
    context: Context
    truth: UInt8[Tensor, "f c h w"]  # fewer frames than the prediction if the video ends earlier, or none
    steps: list[Step]
    timing: dict[str, Any]  # the video's entry in timing.json

    def stacked(self, name: str, future: int = 0) -> Tensor:
        """Return the attribute `name` of all steps for one future, stacked along the first axis."""
        return torch.stack([getattr(step, name)[future] for step in self.steps])


def run(options: Options, root: Path) -> None:
    """Predict all videos, write the output files and log them to an MLflow run.

    Unusable files of a folder are reported and skipped. Raise InputError if the only file or all files are unusable, if
    the row is not trained, or if an option is invalid.
    """
    predictor = VideoPredictor.open(root, options.row, options.device)
    if predictor.row and predictor.row.notice:
        say(f"predict: {predictor.row.notice}")
    sampler = predictor.with_settings(**parse_settings(options.settings))
    options, given = with_example(options, root)
    (files, others), out = find_videos(given), options.out or root / "predictions" / options.row
    if out.is_file():
        raise InputError(f"the output folder {out} is a file; choose another folder with --out")
    seeds = list(dict.fromkeys(options.seeds))
    names = name_outputs(files, given, seeds)
    refuse_overwriting(names, out, seeds)
    table = None if options.actions is None else actions.read(options.actions)
    parameters = {"video": str(given), "row": options.row, "frames": options.frames}
    parameters |= {"futures": options.futures, "seed": options.seeds, **config.plain(sampler)}
    tags = {"stage": "predict", "row": options.row, **tracking.provenance(root)}
    with tracking.run(f"predict@{options.row}", root=root, tags=tags, parameters=parameters) as log:
        timings, failed = [], {}
        for name, file in names.items():
            try:
                for seed, stem in stems(name, seeds).items():
                    prediction = predict_video(predictor, file, stem, seed, options, config.plain(sampler), table)
                    timings.append(prediction.timing)
                    paths = [out / f"{stem}{ending}" for ending in ENDINGS]
                    write(paths, prediction, options.scale)
                    for path in paths:
                        log.artifact(path)
                    say(f"predict: {', '.join(map(str, paths))}")
            except InputError as error:
                if not given.is_dir():
                    raise
                failed[str(file)] = str(error)
                complain(f"  skipped: {error}")
        if not timings:
            raise InputError(f"all videos in {given} were skipped; see the reasons above")
        content = {"device": str(predictor.device), "row": options.row, "predictions": timings, "failed": failed}
        write_json(out / TIMING, content | {"left_out": others})
        log.artifact(out / TIMING)
        log.metrics({key: np.mean([one[key] for one in timings]) for key in ("first_frame_ms", "frames_per_second")})
        say(f"  times {out / TIMING}\n  MLflow run {log.link}")


def with_example(options: Options, root: Path) -> tuple[Options, Path]:
    """Return the options and the video or folder that they name; without a video, the example of the row's weights.

    The example is predicted from its beginning, with its actions. Raise InputError if the row has no example.
    """
    if options.video is not None:
        return options, options.video
    file, commands = rows.example(root, options.row)
    start = 0.0 if options.start is None else options.start
    return replace(options, start=start, actions=options.actions or commands), file


def find_videos(path: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the video files of a folder, or the single file, and the reason for each other entry of the folder.

    Raise InputError if the folder has no video files.
    """
    if not path.is_dir():
        return [path], {}
    files, others = folders.walk(path, video.why_no_video, linked=lambda link, folder: "is a link to a folder")
    if not files:
        raise InputError(f"{path} holds no video files; choose a video file or a folder of video files")
    return files, {finding.video: finding.reason for finding in others}


def name_outputs(files: Sequence[Path], folder: Path, seeds: Sequence[int]) -> dict[str, Path]:
    """Return the files by output names such that no two predictions write a file of the same name.

    The output name is the file's stem, or its path in `folder` if several files have that stem. A number is appended if
    the outputs of another file would collide: `clip` writes clip-panels.mp4, as `clip-panels` does.
    """
    counts = Counter(file.stem for file in files)
    names: dict[str, Path] = {}
    taken = {TIMING}
    for file in files:
        wanted = file.stem if counts[file.stem] == 1 else "-".join(file.relative_to(folder).parts)
        wanted = folders.name(Path(wanted)).encode()[:LONGEST_NAME].decode(errors="ignore")
        for name in itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2))):
            outputs = {output.casefold() for output in output_files(name, seeds)}  # some file systems ignore case
            if not outputs & taken:
                break
        names[name] = file
        taken |= outputs
    return names


def stems(name: str, seeds: Sequence[int]) -> dict[int, str]:
    """Return the stem of the output files for each seed."""
    return {seed: f"{name}-seed{seed}" if len(seeds) > 1 else name for seed in seeds}


def output_files(name: str, seeds: Sequence[int]) -> list[str]:
    """Return the names of all output files of a video."""
    return [f"{stem}{ending}" for stem in stems(name, seeds).values() for ending in ENDINGS]


def refuse_overwriting(names: Mapping[str, Path], out: Path, seeds: Sequence[int]) -> None:
    """Raise InputError if a prediction would replace one of the videos."""
    videos = {file.resolve(): file for file in names.values()}
    for file in (file for name in names for file in output_files(name, seeds)):
        if (overwritten := videos.get((out / file).resolve())) is not None:
            raise InputError(f"a prediction would overwrite {overwritten}; choose another folder with --out")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE pairs, with values in YAML syntax. Raise InputError if a pair is malformed."""
    settings = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise InputError(f"--set {pair} is not NAME=VALUE; write for example --set sets=8")
        settings[name] = config.value(value)
    return settings


def find_actions(
    table: actions.Table | None, file: Path, predictor: VideoPredictor, row: str, first: int, needed: int
) -> Float[np.ndarray, "f i"] | None:
    """Return the actions of a video file from frame `first` on, for `needed` frames; None if `table` is None.

    The table may name the file by the last parts of its path. Raise InputError if the columns differ from those of the
    row's model, if there are too few actions, or unless exactly one entry of the table matches the file.
    """
    if table is None:
        return None
    scale = predictor.description.actions
    if scale is not None and table.columns != scale.columns:
        raise InputError(
            f"{table.path} has the columns {', '.join(table.columns)}, but {row} was trained with "
            f"{', '.join(scale.columns)}; use these columns in this order"
        )
    path = file.absolute().as_posix()
    matches = [name for name in table.videos if path.endswith(f"/{name.lstrip('/')}")]
    matches = matches or [name for name in table.videos if plain(path).endswith(f"/{plain(name).lstrip('/')}")]
    if len(matches) != 1:
        problem = f"{len(matches)} names that match it" if matches else "no actions for it"
        raise InputError(f"{file}: {table.path} has {problem}; its column video must name it once, such as {file.name}")
    found = table.videos[matches[0]][first:]
    if len(found) < needed:
        raise InputError(
            f"{file}: {table.path} has actions up to frame {first + len(found) - 1}, but context and prediction need "
            f"them up to frame {first + needed - 1}; add actions, predict fewer --frames, or --start earlier"
        )
    return found


def predict_video(
    predictor: VideoPredictor,
    file: Path,
    name: str,
    seed: int,
    options: Options,
    sampler: dict[str, Any],
    table: actions.Table | None = None,
) -> PredictedVideo:
    """Predict the next frames of one file. Raise InputError if the file is unusable or too short."""
    started = time.perf_counter()
    found = inputs.read(
        file,
        predictor.size,
        predictor.fps,
        start=options.start,
        context=options.context,
        frames=options.frames,
        every_picture=table is not None,  # one action belongs to each picture of the file
    )
    context = predictor.prepare(found.context, context=len(found.context))
    say(f"  {file}: {found.account}")
    if unlike := predictor.unlike(context):
        complain(f"  {file} {unlike}")
    for note in context.notes:
        say(f"  {file}: {note}")
    marks = [time.perf_counter()]
    steps = []
    counts: dict[str, Any] = {"frames": options.frames, "futures": options.futures}
    needed = len(found.context) + options.frames - 1
    commands = find_actions(table, file, predictor, options.row, found.first, needed)
    for step in predictor.stream(context, **counts, seed=seed, words=options.words, actions=commands, **sampler):
        steps.append(step)
        marks.append(time.perf_counter())
    timing = {
        "video": str(file),
        "first_frame": found.first,
        "reader": found.reader,
        "input": found.account,
        "warning": unlike,
        "name": name,
        "seed": seed,
        "words": options.words,
        "actions": options.actions and str(options.actions),
        **counts,
        "read_ms": 1000 * (marks[0] - started),
        "first_frame_ms": 1000 * (marks[1] - marks[0]),
        "total_ms": 1000 * (marks[-1] - marks[0]),
        "frames_per_second": options.frames * options.futures / (marks[-1] - marks[0]),
        "frame_ms": [round(1000 * (mark - marks[0]), 3) for mark in marks[1:]],
        "notes": list(context.notes),
        "sampler": sampler,
    }
    return PredictedVideo(name, context, found.truth, steps, timing)


def write(paths: Sequence[Path], prediction: PredictedVideo, scale: int | None) -> None:
    """Write the MP4, the GIF, the PNG strip and the panels of a prediction, in the order of ENDINGS."""
    context, futures = prediction.context.frames, range(prediction.timing["futures"])
    videos = [torch.cat([context, prediction.stacked("frame", future)]) for future in futures]
    factor = scale or max(1, SIDE // context.shape[-2])
    side_by_side = torch.cat(videos, dim=-1).repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    video.write(paths[0], side_by_side, FPS)
    video.write_gif(paths[1], side_by_side, FPS)
    video.write(paths[3], torch.from_numpy(panels.film(to_panels(prediction), len(context), factor)), FPS)
    film = galleries.filmstrip(to_gallery(prediction), 0, truth_frames=len(prediction.truth))
    lanes = tuple(replace(lane, name=LANES.get(lane.name, lane.name)) for lane in film.lanes)
    paths[2].write_bytes(galleries.sheet(replace(film, lanes=lanes), scale))


def to_gallery(prediction: PredictedVideo) -> Gallery:
    """Return the first future as a gallery of one clip; missing frames of the truth are black."""
    sample = prediction.stacked("frame")
    truth = torch.zeros_like(sample)
    truth[: len(prediction.truth)] = prediction.truth
    canvas = None if prediction.steps[0].canvas is None else prediction.stacked("canvas")[None].numpy()
    return Gallery(
        names=(prediction.name,),
        reasons=("",),
        context=prediction.context.frames[None].numpy(),
        truth=truth[None].numpy(),
        sample=sample[None].numpy(),
        canvas=canvas,
        staticness=prediction.stacked("staticness")[None].numpy(),
        order=prediction.stacked("order").int()[None].numpy(),
    )


def to_panels(prediction: PredictedVideo) -> list[Panel]:
    """Return truth, canvas, prediction overlaid with the order, and prediction of the first future, after the context.

    The panel of the truth or of the canvas is missing if there is none. Missing frames of the truth are dark.
    """
    sample, order = prediction.stacked("frame"), prediction.stacked("order").float()
    context, ranks = prediction.context.frames, (order / order.max().clamp(min=1)).numpy()
    parts = {"truth": prediction.truth} if len(prediction.truth) else {}
    if prediction.steps[0].canvas is not None:
        parts["canvas"] = prediction.stacked("canvas")
    parts["order"] = torch.from_numpy(galleries.overlay(sample.numpy(), ranks, galleries.ORDER_SCALE))
    parts["prediction"] = sample
    found = []
    for name, frames in parts.items():
        missing = sample.new_zeros(len(sample) - len(frames), *sample.shape[1:])
        present = np.arange(len(context) + len(sample)) < len(context) + len(frames)
        found.append(Panel(name, torch.cat([context, frames, missing]).numpy(), present))
    return found
