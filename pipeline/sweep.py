"""Stage `sweep`: settings tried on validation data through Ray Tune, the best of them, and what it costs in time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from components import checkpoint
from components.config import Config, fingerprint, plain
from components.data.clips import Clips
from components.data.latents import Latents
from components.data.selection import evaluation_clips
from components.errors import InputError
from components.metrics.fvd import ProtocolConfig
from components.models.kinds import ModelConfig
from components.proposals import Proposals, Stopper
from components.reporting import frontier
from components.sampling.frame import SamplerConfig
from components.sampling.search import TOLD, SamplingSearch, changed, proposals
from components.tracking import Run
from components.training.optimizer import RecipeConfig
from components.training.search import TrainingSearch
from components.training.search import proposals as training_proposals
from pipeline import cluster, conditioning, sampler_trials, stage, training_trials, trials
from pipeline.latent_training import Source
from pipeline.progress import complain
from pipeline.sampler_trials import Folders, Scoring

STATE = Path(".state")
Search = SamplingSearch | TrainingSearch


class Params(Config):
    """What there is to begin with, what may vary of it, and the protocol that samples are scored by."""

    model: ModelConfig
    recipe: RecipeConfig
    sampler: SamplerConfig
    search: Annotated[SamplingSearch | TrainingSearch, Field(discriminator="kind")]
    protocol: ProtocolConfig


def main(
    params: Params, *, clips: Path, autoencoder: Path, model: Path, latents: Path, weights: Path, out: Path, log: Run
) -> dict[str, float]:
    """The table of all trials, its Pareto front, and the setting that scored best."""
    search = params.search
    identities = {"model": checkpoint.identity(model), "autoencoder": checkpoint.identity(autoencoder)}
    if isinstance(search, TrainingSearch):
        return over_training(params, search, latents, identities, out, log)
    folders = Folders(*(path.resolve() for path in (model, autoencoder, weights, STATE / "features")))
    return over_sampler(params, search, clips, folders, identities, out, log)


def over_sampler(
    params: Params,
    search: SamplingSearch,
    clips: Path,
    folders: Folders,
    identities: Mapping[str, str],
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Samplers of the trained model; the winner and the first are scored once more on clips that chose nothing."""
    proposed = proposals(params.sampler, search)
    held = Clips.open(clips, "val")
    chosen, others = evaluation_clips([held.name(index) for index in range(len(held))], search.clips)
    seen = Scoring.of(params.sampler, params.protocol, folders, held, chosen, log.handle)
    told = [TOLD[name] for name in search.objectives]
    facts = {**identities, "params": fingerprint(params), "clips": held.hash}
    rows = tried(sampler_trials.trial, proposed, seen, search, told, facts)
    table, best = conclude(rows, search, out)
    winner = changed(params.sampler, {path: best[path] for path in search.space})
    again: dict[str, float] = {}
    if unseen := enough(others, search.unseen):
        scoring = Scoring.of(params.sampler, params.protocol, folders, held, unseen, log.handle)
        again = sampler_trials.compare(winner, scoring)
    write_best(out, best, search, winner, again)
    log.artifact(out)
    return {**numbers(rows, table, best, search), **again}


def over_training(
    params: Params, search: TrainingSearch, latents: Path, identities: Mapping[str, str], out: Path, log: Run
) -> dict[str, float]:
    """Short trainings of models and recipes; the sampler stays as it is."""
    begin = training_trials.Trained(model=params.model, recipe=params.recipe)
    source = Source(latents.resolve(), conditioning.prepare(params.model, latents, cluster.device()))
    shared = training_trials.Training(begin, search, source, log.handle)
    proposed = training_proposals(plain(begin), search)
    training_trials.check(shared)
    held = Latents.open(latents, "val", None)
    facts = {**identities, "params": fingerprint(params), "latents": held.hash}
    rows = tried(
        training_trials.trial, proposed, shared, search, search.objectives, facts, search.stopper, search.steps
    )
    for row in rows:
        if row["status"] == "finished" and row["step"] < search.steps:
            row["status"] = "stopped"
    table, best = conclude(rows, search, out)
    write_best(out, best, search, params.sampler, {})
    log.artifact(out)
    return {**numbers(rows, table, best, search), "trials_stopped": float((table["status"] == "stopped").sum())}


def tried(
    trial: trials.Trial,
    proposed: Proposals,
    shared: Any,
    search: Search,
    told: Sequence[str],
    facts: Mapping[str, Any],
    stopper: Stopper | None = None,
    steps: int = 1,
) -> list[dict[str, Any]]:
    """The rows of all trials; a search of equal facts that was killed is gone on with."""
    with cluster.connect(Path.cwd()):
        return trials.search(
            trial,
            proposed,
            shared,
            storage=STATE / "searches",
            name=f"search-{fingerprint({**facts, 'code': stage.code()})}",
            concurrent=search.concurrent,
            label="trials",
            total=search.trials,
            objectives=told,
            stopper=stopper,
            steps=steps,
        )


def conclude(rows: list[dict[str, Any]], search: Search, out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Writes the table, the front and its figure; gives the table and the best by the first objective.

    Raises InputError if no trial came to its end.
    """
    objectives = search.objectives
    finished = [row for row in rows if row["status"] == "finished" and row[objectives[0]] == row[objectives[0]]]
    if not finished:
        raise InputError("every trial of the search failed; the messages above say why")
    best = min(finished, key=lambda row: tuple(row[name] for name in objectives))  # equals by what comes next
    measured = [f"{name}{end}" for name in objectives for end in ("", "_low", "_high")]
    present = [name for name in (*measured, "gigaflops_per_frame", "step") if any(name in row for row in rows)]
    columns = ["trial", *search.space, *present, "front", "status", "error"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table["front"] = frontier.on_front(table, objectives)
    table.to_csv(out / "trials.csv", index=False, lineterminator="\n")
    if len(objectives) > 1:
        front = table[table["front"]].sort_values(list(objectives))
        front.to_csv(out / "front.csv", index=False, lineterminator="\n")
        (out / "front.png").write_bytes(frontier.figure(table, objectives, best["trial"]))
    return table, best


def write_best(
    out: Path, best: Mapping[str, Any], search: Search, sampler: SamplerConfig, unseen: Mapping[str, float]
) -> None:
    """The winner as a file: `evaluate` takes the sampler from it, a person what was changed."""
    content = {
        "trial": best["trial"],
        "objectives": {name: best[name] for name in search.objectives},
        "setting": {path: best[path] for path in search.space},
        "unseen": dict(unseen),
        "sampler": plain(sampler),
    }
    (out / "best.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def numbers(
    rows: Sequence[Mapping[str, Any]], table: pd.DataFrame, best: Mapping[str, Any], search: Search
) -> dict[str, float]:
    """What a person compares from one run to the next."""
    first = search.objectives[0]
    return {
        **{f"{name}_best": best[name] for name in search.objectives},
        f"{first}_first": rows[0].get(first, float("nan")),
        "trials": float(len(rows)),
        "trials_failed": float((table["status"] == "failed").sum()),
        "trials_on_front": float(table["front"].sum()),
    }


def enough(others: Sequence[int], wanted: int) -> list[int]:
    """Clips to score the winner on once more; none where there are fewer than two, of which a person is told."""
    found = list(others[:wanted])
    if len(found) < wanted:
        complain(f"  search.unseen asks for {wanted} clips of videos that no trial saw, but there are {len(found)}")
    return found if len(found) > 1 else []


if __name__ == "__main__":
    stage.run(main, rows="experiments")
