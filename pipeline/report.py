"""Stage `report`: one page and its pictures, out of what the other stages left behind."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components import ledger, tracking
from components.config import Config, plain
from components.errors import InputError
from components.ledger import Cost
from components.reporting import model_card, page
from components.reporting.page import Sources
from components.reporting.results import read_evaluation, read_json, read_videos
from components.tracking import Run
from pipeline import stage
from pipeline.stage import Experiment


class Params(Config):
    """The rows that are shown, and where their videos come from."""

    simulations: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    experiments: dict[str, Experiment]


COMMANDS = {
    "dvc repro": "makes all of this again, as far as something has changed",
    "dvc exp run -S 'samplers.default.sets=8'": "tries another sampler; nothing is trained again",
    "make ui": "opens MLflow with every run of every stage",
    "python -m pipeline.predict VIDEO --row ROW": "continues a video of your own",
}


def main(
    params: Params,
    *,
    clips: Path,
    autoencoders: Path,
    models: Path,
    searches: Path,
    evaluations: Path,
    out: Path,
    log: Run,
) -> dict[str, float]:
    """One HTML page that needs nothing else, its figures as PNG, and model_card.md; logged to MLflow as they are."""
    rows = params.experiments
    if not rows:
        raise InputError("params.yaml: experiments is empty, so there is nothing to report; add a row")
    sources = Sources(
        evaluations={row: evaluations / row for row in rows},
        trainings={row: models / row for row in rows},
        sweeps={row: searches / row for row in rows},
        clips={chosen.dataset: clips / chosen.dataset for chosen in rows.values()},
        vaes={chosen.autoencoder: autoencoders / chosen.autoencoder for chosen in rows.values()},
    )
    facts = {
        "machine and code": {key: value for key, value in tracking.provenance(Path.cwd()).items() if key in SHOWN},
        **{row: about(rows[row], evaluations / row, searches / row) for row in rows},
    }
    title = f"Video prediction on {', '.join(sources.clips)}"
    page.render(
        sources,
        title=title,
        facts=facts,
        costs=[asdict(one) for one in ledger.costs(Path.cwd()) if known(params, one)],
        journey=journey(sources, rows),
        commands=COMMANDS,
        out=out,
    )
    text = model_card.card(
        title,
        [read_evaluation(folder) for folder in sources.evaluations.values()],
        {name: read_videos(folder) for name, folder in sources.clips.items()},
        {name: origin(params, name) for name in sources.clips},
        facts,
    )
    (out / "model_card.md").write_text(text, encoding="utf-8")
    log.artifact(out, "report")
    return {"rows": float(len(rows))}


def known(params: Params, run: Cost) -> bool:
    """Whether a run is of a row that the report shows, or of a stage without rows."""
    used = {name for row, chosen in params.experiments.items() for name in (row, chosen.dataset, chosen.autoencoder)}
    return run.row in used | {""} | params.simulations.keys() and run.stage != "report"


def about(chosen: Experiment, evaluation: Path, search: Path) -> dict[str, Any]:
    """What a row is made of: the entries that it takes, the data that scored it, and its sampler."""
    told = read_json(evaluation / "scores.json")
    data = {key: told["protocol"].get(key) for key in ("clips_hash", "i3d_hash")}
    return {
        **plain(chosen),
        "parameters": told.get("parameters"),
        **data,
        "sampler": read_json(search / "best.json")["sampler"],
    }


SHOWN = ("commit", "dirty", "python", "torch", "ray", "cpus", "gpu")


def origin(params: Params, dataset: str) -> str:
    """Where the videos of a data set come from, as far as the parameters say it, and what is known of their licence."""
    path = str(params.datasets[dataset].get("path"))
    for name, world in params.simulations.items():
        if path == f"data/videos/{name}":
            return f"simulated by this pipeline ({world.get('kind')}, seed {world.get('seed')}), so nobody is in them."
    return f"videos below {path}; their licence is not known here, so look it up before you pass the model on."


def journey(sources: Sources, rows: dict[str, Experiment]) -> dict[str, str]:
    """A few words for each station of the way."""
    videos = [read_videos(folder) for folder in sources.clips.values()]
    frames, channels, height, width = read_json(next(iter(sources.vaes.values())) / "shape.json")["latent"]
    best = min(read_json(folder / "scores.json")["scores"][0]["fvd"] for folder in sources.evaluations.values())
    return {
        "videos": str(sum(one.videos for one in videos)),
        "clips": str(sum(sum(one.clips.values()) for one in videos)),
        "moments": f"{2 * channels} x {height} x {width}",
        "latents": f"{frames} frames",
        "samples": f"{len(rows)} models",
        "scores": f"FVD {best:.0f}",
        "report": "this page",
    }


if __name__ == "__main__":
    stage.run(main, rows=None)
