"""Stage `report`: one page and its pictures, out of what the other stages left behind."""

from pathlib import Path

from components import tracking
from components.config import Config
from components.errors import InputError
from components.reporting import page
from components.reporting.page import Sources
from components.reporting.results import read_json, read_videos
from components.tracking import Run
from pipeline import stage
from pipeline.stage import Experiment


class Params(Config):
    """The rows that are shown."""

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
    """One HTML page that needs nothing else, and its figures as PNG; logged to MLflow as it is."""
    rows = params.experiments
    if not rows:
        raise InputError("params.yaml: experiments is empty, so there is nothing to report; add a row")
    first = next(iter(rows))
    chosen = rows[first]
    sources = Sources(
        evaluations={row: evaluations / row for row in rows},
        trainings={row: models / row for row in rows},
        sweep=searches / first,
        clips=clips / chosen.dataset,
        vae=autoencoders / chosen.autoencoder,
    )
    facts = {
        "machine and code": {key: value for key, value in tracking.provenance(Path.cwd()).items() if key in SHOWN},
        **{f"{row}: sampler": read_json(searches / row / "best.json")["sampler"] for row in rows},
    }
    page.render(
        sources,
        title=f"Video prediction on {chosen.dataset}",
        facts=facts,
        journey=journey(sources, rows),
        commands=COMMANDS,
        out=out,
    )
    log.artifact(out, "report")
    return {"rows": float(len(rows))}


SHOWN = ("commit", "dirty", "python", "torch", "ray", "cpus", "gpu")


def journey(sources: Sources, rows: dict[str, Experiment]) -> dict[str, str]:
    """A few words for each station of the way."""
    assert sources.clips is not None
    assert sources.vae is not None
    videos = read_videos(sources.clips)
    shape = read_json(sources.vae / "config.json")
    best = min(read_json(folder / "scores.json")["scores"][0]["fvd"] for folder in sources.evaluations.values())
    side = shape["resolution"][0] // shape["stride_space"]
    frames = 1 + (shape["frames"] - 1) // shape["stride_time"]
    return {
        "videos": str(videos.videos),
        "clips": str(sum(videos.clips.values())),
        "moments": f"{2 * shape['channels']} x {side} x {side}",
        "latents": f"{frames} frames",
        "samples": f"{len(rows)} models",
        "scores": f"FVD {best:.0f}",
        "report": "this page",
    }


if __name__ == "__main__":
    stage.run(main, rows=None)
