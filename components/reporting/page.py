"""The report: one self-contained HTML page without scripts, with light and dark colours and a layout for phones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2

from components.foundation.config import flatten
from components.foundation.files import read_json
from components.pictures import galleries, records
from components.reporting import diagram, figures, reels, results, series
from components.reporting.results import Evaluation, Sweep, Videos
from components.reporting.tables import drift, paper, tables, verdict, visible

RECONSTRUCTIONS: Final = 3  # clips shown per VAE


@dataclass(frozen=True, slots=True)
class Sources:
    """Output folders of the stages, in the order of the page; stages that did not run have no entry."""

    evaluations: Mapping[str, Path]  # row -> scores.json, gallery.safetensors
    trainings: Mapping[str, Path]  # row -> history.csv
    sweeps: Mapping[str, Path]  # row -> trials.csv, best.json
    clips: Mapping[str, Path]  # data set -> manifest.json, rejected.json
    vaes: Mapping[str, Path]  # autoencoder -> metrics.json, reconstructions.safetensors


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure at the top of the page."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as data URIs, light and dark, for a wide and a narrow page; `alt_text` describes it."""

    light: str
    dark: str
    light_narrow: str
    dark_narrow: str
    alt_text: str


def render(
    sources: Sources,
    *,
    title: str,
    details: Mapping[str, Mapping[str, Any]],
    usage: Sequence[Mapping[str, Any]],
    journey: Mapping[str, str],
    commands: Mapping[str, str],
    out: Path,
) -> None:
    """Write index.html, its images (PNG, WebP, SVG) and their data (plots/) into `out`; equal input, equal bytes.

    `details` are groups of settings (data, hardware, parameters), `usage` the resource usage of the stages
    (`tables.usage_table`), `journey` the captions of the diagram (`diagram.journey_svg`), and `commands` maps command
    lines to their descriptions. Raises InputError if an input is missing or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    evaluations = [results.read_evaluation(folder) for folder in sources.evaluations.values()]
    groups = tables.by_protocol(evaluations)
    row_galleries = {row: records.read_gallery(folder) for row, folder in sources.evaluations.items()}
    histories = {row: results.read_history(folder) for row, folder in sources.trainings.items()}
    qualities = {name: read_json(folder / "metrics.json") for name, folder in sources.vaes.items()}
    sweeps = {row: results.read_sweep(folder) for row, folder in sources.sweeps.items()}
    series.write(histories, evaluations, sweeps, out / "plots")
    (out / "journey.svg").write_text(diagram.journey_svg(journey), encoding="utf-8")
    page = _template().render(
        title=title,
        tiles=_tiles(evaluations, qualities),
        journey=diagram.journey_svg(journey),
        journey_narrow=diagram.journey_svg(journey, upright=True),
        details={
            name: {key: tables.format_value(value) for key, value in flatten(group).items()}
            for name, group in details.items()
        },
        usage=tables.usage_table(usage),
        verdicts=[verdict.sentences(group) for group in groups],
        protocols=[_protocol(index, group, out) for index, group in enumerate(groups)],
        published=[(table.title, paper.table(table, evaluations)) for table in paper.PUBLISHED] if evaluations else [],
        clips=reels.clips(row_galleries, out),
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
            if not score.reference and "fvd" in score.metrics:
                tiles.append(
                    Tile(f"FVD, {evaluation.row}", tables.number(score.metrics["fvd"], 0), _range(score.metrics))
                )
    floor = next((score for score in tables.references_of(evaluations) if score.name == "real against real"), None)
    if floor is not None and "fvd" in floor.metrics:
        tiles.append(Tile("FVD, real against real", tables.number(floor.metrics["fvd"], 0), _range(floor.metrics)))
    for evaluation in evaluations[:1]:
        if evaluation.milliseconds_per_frame is not None:
            tiles.append(
                Tile("time per frame", f"{tables.number(evaluation.milliseconds_per_frame, 0)} ms", evaluation.row)
            )
    for name, quality in qualities.items():
        if "psnr" in quality:
            tiles.append(Tile(f"PSNR, {name}", f"{tables.number(quality['psnr'], 1)} dB", "of reconstructions"))
    return tiles


def _range(metrics: Mapping[str, float]) -> str:
    if not {"fvd_low", "fvd_high"} <= metrics.keys():
        return ""
    return f"{tables.number(metrics['fvd_low'], 0)} to {tables.number(metrics['fvd_high'], 0)}"


def _protocol(index: int, group: Sequence[Evaluation], out: Path) -> dict[str, Any]:
    """Return the tables and figures of one protocol, since scores of different protocols are not comparable."""
    suffix = "" if index == 0 else f"-{index + 1}"
    rows = ", ".join(evaluation.row for evaluation in group)
    lines = drift.lines_of(group)
    canvases = {one.row: one.calibration for one in group if one.calibration is not None}
    timed = any(one.milliseconds_per_frame is not None for one in group)

    def picture(draw: Callable[..., bytes], content: Any, name: str, alt_text: str) -> Picture:
        return _picture(draw, content, out / f"{name}{suffix}.png", alt_text)

    return {
        "line": tables.protocol_line(group[0].protocol),
        "card": tables.protocol_card(group[0].protocol),
        "table": tables.score_table(group),
        "picture": picture(figures.score_bars, group, "scores", f"FVD of {rows} and of the references"),
        "latency": picture(figures.latency, group, "latency", f"Milliseconds per frame of {rows}") if timed else None,
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
    alt_text = f"Losses of {', '.join(histories)} against the training step"
    picture = _picture(figures.loss_curves, histories, out / "loss.png", alt_text)
    curves = visible.curves(histories)
    alt_text = f"Flow loss of {', '.join(curves)} against the number of visible tokens"
    by_visible = _picture(figures.visible_curves, curves, out / "visible.png", alt_text) if curves else None
    return {
        "picture": picture,
        "table": tables.history_table(histories),
        "visible_picture": by_visible,
        "visible_table": visible.table(histories),
    }


def _sweep(row: str, sweep: Sweep, out: Path) -> dict[str, Any]:
    varied = ", ".join(sweep.parameters) or "nothing"
    alt_text = f"{tables.label(sweep.objective)} of {len(sweep.trials)} trials of {row} over {varied}"
    return {
        "row": row,
        "picture": _picture(figures.search, sweep, out / f"sweep-{reels.file_name(row)}.png", alt_text),
        "table": tables.sweep_table(sweep),
        "chosen": {key: tables.format_value(value) for key, value in flatten(sweep.chosen).items()},
        "trials": len(sweep.trials),
    }


def _vae(name: str, folder: Path, quality: Mapping[str, Any], out: Path) -> dict[str, Any]:
    reconstructions = records.read_reconstructions(folder)
    films = [
        galleries.reconstruction_filmstrip(reconstructions, index)
        for index in range(min(len(reconstructions.names), RECONSTRUCTIONS))
    ]
    for index, film in enumerate(films):
        (out / f"vae-{reels.file_name(name)}-{index}.png").write_bytes(galleries.sheet(film))
    metrics = {tables.label(key): tables.significant(value) for key, value in flatten(quality).items()}
    return {"name": name, "metrics": metrics, "reels": [reels.reel(film.name, film) for film in films]}


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


def _picture(draw: Callable[..., bytes], content: Any, path: Path, alt_text: str) -> Picture:
    """Draw a figure for both themes and both widths; also write the light, wide variant to `path`."""
    path.write_bytes(light := draw(content, figures.LIGHT))
    variants = [
        draw(content, theme, narrow=narrow)
        for theme, narrow in ((figures.DARK, False), (figures.LIGHT, True), (figures.DARK, True))
    ]
    dark, light_narrow, dark_narrow = (reels.uri(variant, "png") for variant in variants)
    return Picture(reels.uri(light, "png"), dark, light_narrow, dark_narrow, alt_text)
