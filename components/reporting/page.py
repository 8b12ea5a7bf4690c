"""The report: one HTML page that needs nothing else, plays without scripts, is light or dark, and fits a phone."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2

from components.config import flatten
from components.errors import InputError
from components.reporting import diagram, figures, galleries, results, tables
from components.reporting.results import Evaluation, Gallery, Reconstructions, Sweep, Videos

RECONSTRUCTIONS: Final = 3  # clips of the VAE shown


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders that the stages wrote; rows in the order in which they are shown, None for what was not done."""

    evaluations: Mapping[str, Path]  # row -> scores.json, gallery.safetensors
    trainings: Mapping[str, Path]  # row -> history.csv
    sweep: Path | None  # trials.csv, best.json
    clips: Path | None  # manifest.json, rejected.json
    vae: Path | None  # metrics.json, reconstructions.safetensors


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the headline."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as data URIs: light and dark, for a wide and for a narrow page."""

    light: str
    dark: str
    light_narrow: str
    dark_narrow: str
    told: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A lane of a film: its name, its picture and the colours of its scale."""

    name: str
    picture: str
    gradient: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Reel:
    """A film for the page: strips below numbered columns."""

    title: str
    strips: tuple[Strip, ...]
    columns: tuple[tuple[str, float, bool], ...]  # number, middle in pixels, whether context
    width: float
    height: int


@dataclass(frozen=True, slots=True)
class Motion:
    """An animation, and how many pictures stand side by side in it."""

    row: str
    picture: str
    across: int


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as every row predicted it."""

    name: str
    motions: tuple[Motion, ...]
    reels: tuple[Reel, ...]


def render(
    sources: Sources,
    *,
    title: str,
    facts: Mapping[str, Mapping[str, Any]],
    journey: Mapping[str, str],
    commands: Mapping[str, str],
    out: Path,
) -> None:
    """Write index.html and its pictures (PNG, WebP, journey.svg) into `out`; equal input gives equal bytes.

    `facts` are the groups of what was run (data, hardware, parameters), `journey` the words below each station
    (`diagram.journey_svg`), `commands` a command line each with what it does. Raises InputError if an input is missing
    or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluations = [results.read_evaluation(folder) for folder in sources.evaluations.values()]
    shown = {row: results.read_gallery(folder) for row, folder in sources.evaluations.items()}
    histories = {row: results.read_history(folder) for row, folder in sources.trainings.items()}
    sweep = results.read_sweep(sources.sweep) if sources.sweep else None
    quality = results.read_json(sources.vae / "metrics.json") if sources.vae else None
    again = results.read_reconstructions(sources.vae) if sources.vae else None
    (out / "journey.svg").write_text(diagram.journey_svg(journey), encoding="utf-8")
    page = _template().render(
        title=title,
        tiles=_tiles(evaluations, quality),
        journey=diagram.journey_svg(journey),
        journey_narrow=diagram.journey_svg(journey, upright=True),
        facts={
            name: {key: tables.word(value) for key, value in flatten(group).items()} for name, group in facts.items()
        },
        protocols=_protocols(evaluations, out),
        clips=_clips(shown, out),
        training=_training(histories, out),
        sweep=_sweep(sweep, out),
        vae=_vae(quality, again, out),
        videos=_videos(results.read_videos(sources.clips)) if sources.clips else None,
        commands=commands,
    )
    (out / "index.html").write_text(page, encoding="utf-8")


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _tiles(evaluations: Sequence[Evaluation], quality: Mapping[str, Any] | None) -> list[Tile]:
    tiles = []
    for evaluation in evaluations:
        for score in evaluation.scores:
            if not score.reference and "fvd" in score.numbers:
                tiles.append(
                    Tile(f"FVD, {evaluation.row}", tables.number(score.numbers["fvd"], 0), _range(score.numbers))
                )
    floor = next((score for score in tables.references_of(evaluations) if score.name == "real against real"), None)
    if floor is not None and "fvd" in floor.numbers:
        tiles.append(Tile("FVD, real against real", tables.number(floor.numbers["fvd"], 0), _range(floor.numbers)))
    for evaluation in evaluations[:1]:
        if evaluation.milliseconds_per_frame is not None:
            tiles.append(
                Tile("time a frame", f"{tables.number(evaluation.milliseconds_per_frame, 0)} ms", evaluation.row)
            )
    if quality is not None and "psnr" in quality:
        tiles.append(Tile("VAE", f"{tables.number(quality['psnr'], 1)} dB", "PSNR of reconstructions"))
    return tiles


def _range(numbers: Mapping[str, float]) -> str:
    if not {"fvd_low", "fvd_high"} <= numbers.keys():
        return ""
    return f"{tables.number(numbers['fvd_low'], 0)} to {tables.number(numbers['fvd_high'], 0)}"


def _protocols(evaluations: Sequence[Evaluation], out: Path) -> list[dict[str, Any]]:
    """One table and figure for each protocol: what was measured differently is not put side by side."""
    shown = []
    for index, group in enumerate(tables.by_protocol(evaluations)):
        name = "scores.png" if index == 0 else f"scores-{index + 1}.png"
        rows = ", ".join(evaluation.row for evaluation in group)
        picture = _picture(figures.score_bars, group, out / name, f"FVD of {rows} and of the references")
        shown.append(
            {
                "line": tables.protocol_line(group[0].protocol),
                "table": tables.score_table(group),
                "verdicts": tables.verdicts(group),
                "picture": picture,
            }
        )
    return shown


def _clips(shown: Mapping[str, Gallery], out: Path) -> list[Clip]:
    """Clips of equal name stand together, in the order of their first row."""
    places: dict[str, list[tuple[str, int]]] = {}
    for row, gallery in shown.items():
        for index, name in enumerate(gallery.names):
            places.setdefault(name, []).append((row, index))
    return [_clip(name, [(row, shown[row], index) for row, index in rows], out) for name, rows in places.items()]


def _clip(name: str, rows: Sequence[tuple[str, Gallery, int]], out: Path) -> Clip:
    motions, reels = [], []
    for row, gallery, index in rows:
        file = f"gallery-{_file_name(row)}-{index}"
        film = galleries.film(gallery, index)
        motion = galleries.animation(gallery, index)
        (out / f"{file}.webp").write_bytes(motion)
        (out / f"{file}.png").write_bytes(galleries.sheet(film))
        motions.append(Motion(row, _uri(motion, "webp"), 2 if gallery.canvas is None else 3))
        reels.append(_reel(row, film))
    return Clip(name, tuple(motions), tuple(reels))


def _reel(title: str, film: galleries.Film) -> Reel:
    strips = tuple(
        Strip(
            lane.name,
            _uri(galleries.strip(lane, film.given), "webp"),
            ", ".join(galleries.colours(lane.scale)) if lane.scale else "",
            lane.low,
            lane.high,
        )
        for lane in film.lanes
    )
    middles, width = galleries.centres(film)
    columns = tuple(
        (str(number), middle, column < film.given)
        for column, (number, middle) in enumerate(zip(film.numbers, middles, strict=True))
    )
    return Reel(title, strips, columns, width, film.lanes[0].frames.shape[1])


def _training(histories: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    if not histories:
        return None
    told = f"Losses of {', '.join(histories)} against the training step"
    picture = _picture(figures.loss_curves, histories, out / "loss.png", told)
    return {"picture": picture, "table": tables.history_table(histories)}


def _sweep(sweep: Sweep | None, out: Path) -> dict[str, Any] | None:
    if sweep is None:
        return None
    told = f"FVD of {len(sweep.trials)} trials over {', '.join(sweep.parameters) or 'nothing'}"
    chosen = {key: tables.word(value) for key, value in flatten(sweep.chosen).items()}
    picture = _picture(figures.search, sweep, out / "sweep.png", told)
    return {"picture": picture, "table": tables.sweep_table(sweep), "chosen": chosen, "trials": len(sweep.trials)}


def _vae(quality: Mapping[str, Any] | None, again: Reconstructions | None, out: Path) -> dict[str, Any] | None:
    if quality is None or again is None:
        return None
    films = [galleries.reconstruction_film(again, index) for index in range(min(len(again.names), RECONSTRUCTIONS))]
    for index, film in enumerate(films):
        (out / f"vae-{index}.png").write_bytes(galleries.sheet(film))
    numbers = {tables.label(key): tables.significant(value) for key, value in flatten(quality).items()}
    return {"numbers": numbers, "reels": [_reel(film.name, film) for film in films]}


def _videos(videos: Videos) -> dict[str, Any]:
    return {
        "videos": videos.videos,
        "clips": videos.clips,
        "rejected": len(videos.rejected),
        "reasons": tables.reason_table(videos.rejected),
        "list": tables.plain_table(videos.rejected),
        "doubtful": len(videos.doubtful),
        "doubtful_list": tables.plain_table(videos.doubtful),
    }


def _picture(draw: Callable[..., bytes], content: Any, path: Path, told: str) -> Picture:
    """A figure in its four forms; the light and wide one is also written to `path`."""
    path.write_bytes(light := draw(content, figures.LIGHT))
    others = [
        draw(content, theme, narrow=narrow)
        for theme, narrow in ((figures.DARK, False), (figures.LIGHT, True), (figures.DARK, True))
    ]
    dark, light_narrow, dark_narrow = (_uri(other, "png") for other in others)
    return Picture(_uri(light, "png"), dark, light_narrow, dark_narrow, told)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _file_name(row: str) -> str:
    name = re.sub(r"[^\w.-]", "_", row)
    if name.strip(".") == "":
        raise InputError(f"the row {row!r} cannot name a file; rename it in params.yaml")
    return name
