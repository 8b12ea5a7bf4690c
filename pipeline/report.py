"""Stage `report`: summarise the outputs of all stages in one HTML page and a model card."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.foundation.config import Config, plain
from components.foundation.errors import InputError
from components.foundation.files import read_json
from components.reporting import model_card, page, stage_usage
from components.reporting.page import Sources
from components.reporting.results import read_evaluation, read_videos
from components.reporting.stage_usage import StageUsage
from components.telemetry.tracking import Run
from pipeline.runtime import stage
from pipeline.runtime.stage import Experiment


class Params(Config):
    """The rows to report, and the tables that describe the sources of their videos."""

    simulations: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    experiments: dict[str, Experiment]
    ablations: dict[str, dict[str, Any]]


COMMANDS = {
    "dvc repro": "reruns the stages whose inputs have changed",
    "dvc exp run -S 'samplers.default.sets=8'": "tries another sampler without training again",
    "make ui": "opens MLflow with the runs of all stages",
    "canvasmar predict VIDEO --row ROW": "predicts the next frames of your own video",
}
MACHINE_TAGS = ("commit", "dirty", "python", "torch", "ray", "cpus", "gpu")


def main(
    params: Params,
    *,
    clips: Path,
    autoencoders: Path,
    models: Path,
    searches: Path,
    evaluations: Path,
    usage: Path,
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Write a self-contained HTML page, its figures as PNG, and model_card.md, and log them to MLflow.

    Raise InputError if there are no experiments.
    """
    rows = params.experiments
    if not rows:
        raise InputError("params.yaml: experiments is empty, so the report has no rows; add one")
    sources = Sources(
        evaluations={row: evaluations / row for row in rows},
        trainings={row: models / row for row in rows},
        sweeps={row: searches / row for row in rows},
        clips={chosen.scored_on: clips / chosen.scored_on for chosen in rows.values()},
        vaes={chosen.autoencoder: autoencoders / chosen.autoencoder for chosen in rows.values()},
    )
    runs = [run for run in stage_usage.read_usage(usage) if is_reported(params, run)]
    tags = runs[-1].tags if runs else {}
    details = {
        "machine and code": {key: tags[key] for key in MACHINE_TAGS if key in tags},
        **{row: row_details(rows[row], evaluations / row, searches / row) for row in rows},
    }
    title = f"Video prediction on {', '.join(sources.clips)}"
    page.render(
        sources,
        title=title,
        details=details,
        usage=[asdict(run) for run in runs],
        journey=journey(sources, rows),
        commands=COMMANDS,
        out=out,
    )
    text = model_card.card(
        title,
        [read_evaluation(folder) for folder in sources.evaluations.values()],
        {name: read_videos(folder) for name, folder in sources.clips.items()},
        {name: video_source(params, name) for name in sources.clips},
        details,
    )
    (out / "model_card.md").write_text(text, encoding="utf-8")
    log.artifact(out, "report")
    return {"rows": float(len(rows))}


def is_reported(params: Params, run: StageUsage) -> bool:
    """Return whether a run belongs to a row of the report or to a stage without rows."""
    rows = {
        name
        for row, chosen in params.experiments.items()
        for name in (row, chosen.dataset, chosen.scored_on, chosen.autoencoder)
    }
    return run.row in rows | {""} | params.simulations.keys() | params.ablations.keys()


def row_details(experiment: Experiment, evaluation: Path, search: Path) -> dict[str, Any]:
    """Return a row's entries of params.yaml, its number of parameters, the hashes of its test data and its sampler."""
    content = read_json(evaluation / "scores.json")
    data = {key: content["protocol"].get(key) for key in ("clips_hash", "i3d_hash")}
    return {
        **plain(experiment),
        "parameters": content.get("parameters"),
        **data,
        "sampler": read_json(search / "best.json")["sampler"],
    }


def video_source(params: Params, dataset: str) -> str:
    """Return a sentence with the source and the licence of a data set's videos."""
    path = str(params.datasets[dataset].get("path"))
    for name, world in params.simulations.items():
        if path == f"data/videos/{name}":
            return f"simulated by this pipeline ({world.get('kind')}, seed {world.get('seed')}); they show no people."
    return f"videos in {path}; their licence is unknown, so check it before you publish the model."


def journey(sources: Sources, rows: dict[str, Experiment]) -> dict[str, str]:
    """Return a short text for each step of the figure from videos to report."""
    videos = [read_videos(folder) for folder in sources.clips.values()]
    frames, channels, height, width = read_json(next(iter(sources.vaes.values())) / "shape.json")["latent"]
    firsts = [read_json(folder / "scores.json")["scores"][0] for folder in sources.evaluations.values()]
    best = min((first["fvd"] for first in firsts if first["fvd"] is not None), default=None)
    return {
        "videos": str(sum(dataset.videos for dataset in videos)),
        "clips": str(sum(sum(dataset.clips.values()) for dataset in videos)),
        "moments": f"{2 * channels} x {height} x {width}",
        "latents": f"{frames} frames",
        "samples": f"{len(rows)} models",
        "scores": "FVD –" if best is None else f"FVD {best:.0f}",
        "report": "this page",
    }


if __name__ == "__main__":
    stage.run(main, rows=None)
