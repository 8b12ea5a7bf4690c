"""The report: one HTML page that needs nothing else, plays without scripts, is light or dark, and fits a phone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2

from components.config import flatten
from components.reporting import diagram, drift, figures, galleries, paper, reels, results, series, tables, verdict
from components.reporting.results import Evaluation, Sweep, Videos

RECONSTRUCTIONS: Final = 3  # clips of the VAE shown


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders that the stages wrote, in the order in which they are shown; what was not done is absent."""

    evaluations: Mapping[str, Path]  # row -> scores.json, gallery.safetensors
    trainings: Mapping[str, Path]  # row -> history.csv
    sweeps: Mapping[str, Path]  # row -> trials.csv, best.json
    clips: Mapping[str, Path]  # data set -> manifest.json, rejected.json
    vaes: Mapping[str, Path]  # autoencoder -> metrics.json, reconstructions.safetensors


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


def render(
    sources: Sources,
    *,
    title: str,
    facts: Mapping[str, Mapping[str, Any]],
    costs: Sequence[Mapping[str, Any]],
    journey: Mapping[str, str],
    commands: Mapping[str, str],
    out: Path,
) -> None:
    """Write index.html, its pictures (PNG, WebP, SVG) and their numbers (plots/) into `out`; equal input, equal bytes.

    `facts` are the groups of what was run (data, hardware, parameters), `costs` the stages with what each took
    (`tables.cost_table`), `journey` the words below each station
    (`diagram.journey_svg`), `commands` a command line each with what it does. Raises InputError if an input is missing
    or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluations = [results.read_evaluation(folder) for folder in sources.evaluations.values()]
    groups = tables.by_protocol(evaluations)
    shown = {row: results.read_gallery(folder) for row, folder in sources.evaluations.items()}
    histories = {row: results.read_history(folder) for row, folder in sources.trainings.items()}
    qualities = {name: results.read_json(folder / "metrics.json") for name, folder in sources.vaes.items()}
    sweeps = {row: results.read_sweep(folder) for row, folder in sources.sweeps.items()}
    series.write(histories, evaluations, sweeps, out / "plots")
    (out / "journey.svg").write_text(diagram.journey_svg(journey), encoding="utf-8")
    page = _template().render(
        title=title,
        tiles=_tiles(evaluations, qualities),
        journey=diagram.journey_svg(journey),
        journey_narrow=diagram.journey_svg(journey, upright=True),
        facts={
            name: {key: tables.word(value) for key, value in flatten(group).items()} for name, group in facts.items()
        },
        costs=tables.cost_table(costs),
        verdicts=[verdict.sentences(group) for group in groups],
        protocols=[_protocol(index, group, out) for index, group in enumerate(groups)],
        published=[(table.title, paper.table(table, evaluations)) for table in paper.PUBLISHED] if evaluations else [],
        clips=reels.clips(shown, out),
        training=_training(histories, out),
        sweeps=[_sweep(row, sweep, out) for row, sweep in sweeps.items()],
        vaes=[_vae(name, folder, qualities[name], out) for name, folder in sources.vaes.items()],
        videos=[_videos(name, results.read_videos(folder)) for name, folder in sources.clips.items()],
        commands=commands,
    )
    (out / "index.html").write_text(page, encoding="utf-8")


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _tiles(evaluations: Sequence[Evaluation], qualities: Mapping[str, Mapping[str, Any]]) -> list[Tile]:
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
    for name, quality in qualities.items():
        if "psnr" in quality:
            tiles.append(Tile(f"PSNR, {name}", f"{tables.number(quality['psnr'], 1)} dB", "of reconstructions"))
    return tiles


def _range(numbers: Mapping[str, float]) -> str:
    if not {"fvd_low", "fvd_high"} <= numbers.keys():
        return ""
    return f"{tables.number(numbers['fvd_low'], 0)} to {tables.number(numbers['fvd_high'], 0)}"


def _protocol(index: int, group: Sequence[Evaluation], out: Path) -> dict[str, Any]:
    """The table and the figures of one protocol: what was measured differently is not put side by side."""
    number = "" if index == 0 else f"-{index + 1}"
    rows = ", ".join(evaluation.row for evaluation in group)
    lines = drift.lines_of(group)
    canvases = {one.row: one.calibration for one in group if one.calibration is not None}
    timed = any(one.milliseconds_per_frame is not None for one in group)

    def picture(draw: Callable[..., bytes], content: Any, name: str, told: str) -> Picture:
        return _picture(draw, content, out / f"{name}{number}.png", told)

    return {
        "line": tables.protocol_line(group[0].protocol),
        "card": tables.protocol_card(group[0].protocol),
        "table": tables.score_table(group),
        "picture": picture(figures.score_bars, group, "scores", f"FVD of {rows} and of the references"),
        "latency": picture(figures.latency, group, "latency", f"Milliseconds a frame of {rows}") if timed else None,
        "drift": drift.table(group),
        "drift_picture": picture(
            figures.drift, lines, "drift", f"Scores of {', '.join(lines)} along the predicted frames"
        )
        if lines
        else None,
        "calibration": tables.calibration_table(group),
        "calibration_picture": picture(
            figures.calibration,
            canvases,
            "calibration",
            f"Predicted against observed staticness of {', '.join(canvases)}",
        )
        if canvases
        else None,
    }


def _training(histories: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    if not histories:
        return None
    told = f"Losses of {', '.join(histories)} against the training step"
    picture = _picture(figures.loss_curves, histories, out / "loss.png", told)
    return {"picture": picture, "table": tables.history_table(histories)}


def _sweep(row: str, sweep: Sweep, out: Path) -> dict[str, Any]:
    varied = ", ".join(sweep.parameters) or "nothing"
    told = f"{tables.label(sweep.objective)} of {len(sweep.trials)} trials of {row} over {varied}"
    return {
        "row": row,
        "picture": _picture(figures.search, sweep, out / f"sweep-{reels.file_name(row)}.png", told),
        "table": tables.sweep_table(sweep),
        "chosen": {key: tables.word(value) for key, value in flatten(sweep.chosen).items()},
        "trials": len(sweep.trials),
    }


def _vae(name: str, folder: Path, quality: Mapping[str, Any], out: Path) -> dict[str, Any]:
    again = results.read_reconstructions(folder)
    films = [galleries.reconstruction_film(again, index) for index in range(min(len(again.names), RECONSTRUCTIONS))]
    for index, film in enumerate(films):
        (out / f"vae-{reels.file_name(name)}-{index}.png").write_bytes(galleries.sheet(film))
    numbers = {tables.label(key): tables.significant(value) for key, value in flatten(quality).items()}
    return {"name": name, "numbers": numbers, "reels": [reels.reel(film.name, film) for film in films]}


def _videos(name: str, videos: Videos) -> dict[str, Any]:
    return {
        "name": name,
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
    dark, light_narrow, dark_narrow = (reels.uri(other, "png") for other in others)
    return Picture(reels.uri(light, "png"), dark, light_narrow, dark_narrow, told)
