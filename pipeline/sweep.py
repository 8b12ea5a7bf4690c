"""Stage `sweep`: search sampler or training settings with Ray Tune on validation data, and write the best."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from components.datasets.clips import Clips
from components.datasets.latents import Latents
from components.datasets.selection import evaluation_clips
from components.foundation import checkpoint, devices
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, plain
from components.foundation.errors import InputError
from components.foundation.files import write_json
from components.metrics.distances.fvd import ProtocolConfig
from components.models.conditions import encoders
from components.models.kinds import ModelConfig
from components.models.latent_training import TrainingSource
from components.sampling.frame import SamplerConfig
from components.telemetry.progress import complain
from components.telemetry.tracking import Run
from components.training.optimizer import RecipeConfig
from pipeline.runtime import cluster, stage
from pipeline.tuning import figures, frontier, sampler_search, sampler_trials, training_search, training_trials, trials
from pipeline.tuning.sampler_search import OPTUNA_METRICS, SamplingSearch
from pipeline.tuning.sampler_trials import Folders, Scoring
from pipeline.tuning.suggest import Stopper, Suggester
from pipeline.tuning.training_search import TrainingSearch

Search = SamplingSearch | TrainingSearch


class Params(Config):
    """The row's model, recipe and sampler, the search that varies them, and the evaluation protocol."""

    model: ModelConfig
    recipe: RecipeConfig
    sampler: SamplerConfig
    search: Annotated[Search, Field(discriminator="kind")]
    protocol: ProtocolConfig


def main(
    params: Params, *, clips: Path, autoencoder: Path, model: Path, latents: Path, weights: Path, out: Path, log: Run
) -> dict[str, float]:
    """Write a table of all trials, the Pareto front, and best.json with the setting that scored best.

    Raise InputError if the search is not valid or every trial fails.
    """
    search = params.search
    identities = {"model": checkpoint.identity(model), "autoencoder": checkpoint.identity(autoencoder)}
    if isinstance(search, TrainingSearch):
        return search_training(params, search, latents, autoencoder, identities, out, log)
    folders = Folders(model.resolve(), autoencoder.resolve(), weights.resolve(), Cache.here())
    return search_sampler(params, search, clips, folders, identities, out, log)


def search_sampler(
    params: Params,
    search: SamplingSearch,
    clips: Path,
    folders: Folders,
    identities: Mapping[str, str],
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Search sampler settings of the trained model; score the winner again on clips that no trial used."""
    suggester = sampler_search.suggester(params.sampler, search)
    val = Clips.open(clips, "val")
    chosen, others = evaluation_clips([val.name(index) for index in range(len(val))], search.clips)
    scoring = Scoring.of(params.sampler, params.protocol, folders, val, chosen, log.handle)
    metrics = [OPTUNA_METRICS[name] for name in search.objectives]
    inputs = {**identities, "params": plain(params), "clips": val.hash, "chosen": chosen}
    rows = run_trials(sampler_trials.trial, suggester, scoring, search, metrics, inputs)
    table, best = write_tables(rows, search, out)
    log_winner(log, best, search)
    winner = sampler_search.changed(params.sampler, {path: best[path] for path in search.space})
    rescored: dict[str, float] = {}
    if unseen := unseen_clips(others, search.unseen):
        scoring = Scoring.of(params.sampler, params.protocol, folders, val, unseen, log.handle)
        rescored = sampler_trials.compare(winner, scoring)
    write_best(out, best, search, winner, rescored)
    log.artifact(out)
    return {**summary(rows, table, best, search), **rescored}


def search_training(
    params: Params,
    search: TrainingSearch,
    latents: Path,
    autoencoder: Path,
    identities: Mapping[str, str],
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Search settings of model and recipe by short training runs; the sampler does not change."""
    current = training_trials.Candidate(model=params.model, recipe=params.recipe)
    source = TrainingSource(latents.resolve(), encoders.prepare(params.model, latents, autoencoder, devices.device()))
    shared = training_trials.TrialInputs(current, search, source, log.handle)
    suggester = training_search.suggester(plain(current), search)
    training_trials.check(shared)
    inputs = {**identities, "params": plain(params), "latents": Latents.open(latents, "val", None).hash}
    rows = run_trials(
        training_trials.trial, suggester, shared, search, search.objectives, inputs, search.stopper, search.steps
    )
    for row in rows:
        if row["status"] == "finished" and row["step"] < search.steps:
            row["status"] = "stopped"
    table, best = write_tables(rows, search, out)
    log_winner(log, best, search)
    write_best(out, best, search, params.sampler, {})
    log.artifact(out)
    return {**summary(rows, table, best, search), "trials_stopped": float((table["status"] == "stopped").sum())}


def run_trials(
    trial: trials.Trial,
    suggester: Suggester,
    shared: Any,
    search: Search,
    metrics: Sequence[str],
    inputs: Mapping[str, Any],
    stopper: Stopper | None = None,
    steps: int = 1,
) -> list[dict[str, Any]]:
    """Run all trials and return their rows; resume an interrupted search if its inputs and code are the same.

    `metrics` are the values that the suggester minimises, `inputs` the cache key of the search.
    """
    entry = Cache.here().entry("search", inputs, code.fingerprint(inspect.getfile(trial), trials.__file__))
    with cluster.connect(Path.cwd()):
        rows = trials.search(
            trial,
            suggester,
            shared,
            storage=entry.path,
            name="trials",
            concurrent=search.concurrent,
            label="trials",
            total=search.trials,
            objectives=metrics,
            stopper=stopper,
            steps=steps,
        )
    entry.remove()
    return rows


def write_tables(rows: list[dict[str, Any]], search: Search, out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write the table, the Pareto front and its figure; return the table and the best row by the first objective.

    Raise InputError if no trial has finished with a valid first objective.
    """
    objectives = search.objectives
    finished = [row for row in rows if row["status"] == "finished" and not math.isnan(row[objectives[0]])]
    if not finished:
        raise InputError("every trial of the search failed; see the errors above")
    # equal scores: the least work, then the first trial; a measured time would choose another winner in another run
    best = min(finished, key=lambda row: (row[objectives[0]], row.get("gigaflops_per_frame", 0.0), row["trial"]))
    measured = [f"{name}{suffix}" for name in objectives for suffix in ("", "_low", "_high")]
    present = [name for name in (*measured, "gigaflops_per_frame", "step") if any(name in row for row in rows)]
    columns = ["trial", *search.space, *present, "front", "status", "error"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table["front"] = frontier.on_front(table, objectives)
    table.to_csv(out / "trials.csv", index=False, lineterminator="\n")
    if len(objectives) > 1:
        front = table[table["front"]].sort_values(list(objectives))
        front.to_csv(out / "front.csv", index=False, lineterminator="\n")
        (out / "front.png").write_bytes(figures.front(table, objectives, best["trial"]))
    return table, best


def log_winner(log: Run, best: Mapping[str, Any], search: Search) -> None:
    """Log the settings of the best trial as parameters of the search's run, which holds the row's own settings too."""
    log.parameters({"winner.trial": best["trial"], **{f"winner.{path}": best[path] for path in search.space}})


def write_best(
    out: Path, best: Mapping[str, Any], search: Search, sampler: SamplerConfig, unseen: Mapping[str, float]
) -> None:
    """Write best.json: the winner's scores, its settings, and the whole sampler, which `evaluate` reads."""
    content = {
        "trial": best["trial"],
        "objectives": {name: best[name] for name in search.objectives},
        "setting": {path: best[path] for path in search.space},
        "unseen": dict(unseen),
        "sampler": plain(sampler),
    }
    write_json(out / "best.json", content)


def summary(
    rows: Sequence[Mapping[str, Any]], table: pd.DataFrame, best: Mapping[str, Any], search: Search
) -> dict[str, float]:
    """Return the stage's metrics: the best and the first score, and counts of trials."""
    first = search.objectives[0]
    return {
        **{f"{name}_best": best[name] for name in search.objectives},
        f"{first}_first": rows[0].get(first, float("nan")),
        "trials": float(len(rows)),
        "trials_failed": float((table["status"] == "failed").sum()),
        "trials_on_front": float(table["front"].sum()),
    }


def unseen_clips(others: Sequence[int], count: int) -> list[int]:
    """Return the clips to score the winner on again, none if fewer than two; warn if there are fewer than `count`."""
    found = list(others[:count])
    if len(found) < count:
        complain(f"  search.unseen is {count}, but only {len(found)} clips come from videos that no trial uses")
    return found if len(found) > 1 else []


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="experiments", check=problems.before_stage)
