"""Stage `sweep`: search sampler or training settings with Ray Tune on validation data, and write the best."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from components.datasets.clips import Clips
from components.datasets.latents import Latents
from components.datasets.selection import evaluation_clips
from components.foundation import checkpoint, devices, workspace
from components.foundation.caching import code
from components.foundation.caching.cache import Cache
from components.foundation.config import Config, plain
from components.metrics.distances.fvd import ProtocolConfig
from components.models.conditions import encoders
from components.models.kinds import ModelConfig
from components.models.latent_training import InitialWeights, TrainingSource
from components.sampling.frame import SamplerConfig
from components.telemetry.progress import complain
from components.telemetry.tracking import Run, RunHandle
from components.training.optimizer import RecipeConfig
from pipeline.monitoring import nodes
from pipeline.runtime import cluster, stage
from pipeline.tuning import sampler_search, sampler_trials, training_search, training_trials, trials
from pipeline.tuning.sampler_search import SamplingSearch
from pipeline.tuning.sampler_trials import Folders, Scoring
from pipeline.tuning.search_results import Search, summary, write_best, write_tables
from pipeline.tuning.training_search import Candidate, TrainingSearch

HEADLINES: Final = (  # for `dvc metrics`
    "fvd_best", "fvd_unseen_difference", "validation_flow_best", "validation_loss_best", "trials", "trials_failed",
)  # fmt: skip
RAY_RESULTS: Final = Path("data") / "ray_results"  # folders of searches with `keep: true`; no output of DVC


class Params(Config):
    """The row's model, recipe and sampler, the search that varies them, and the evaluation protocol."""

    model: ModelConfig
    recipe: RecipeConfig
    sampler: SamplerConfig
    search: Annotated[Search, Field(discriminator="kind")]
    protocol: ProtocolConfig


def main(
    params: Params,
    *,
    clips: Path,
    autoencoder: Path,
    model: Path,
    latents: Path,
    start: Path,
    weights: Path,
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Write a table of all trials, the Pareto front, and best.json with the setting that scored best.

    Raise InputError if the search is not valid or every trial fails.
    """
    search = params.search
    identities = {"model": checkpoint.identity(model), "autoencoder": checkpoint.identity(autoencoder)}
    if isinstance(search, TrainingSearch):
        return search_training(params, search, latents, autoencoder, start, identities, out, log)
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
    scoring = replace(scoring, own=sampler_trials.features(params.sampler, scoring)[0])
    inputs = {**identities, "params": plain(params), "clips": val.hash, "chosen": chosen}
    metrics = sampler_search.metrics(search)
    rows = run_trials(sampler_trials.trial, suggester, scoring, search, metrics, inputs, row_of(out), log.handle)
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
    start: Path,
    identities: Mapping[str, str],
    out: Path,
    log: Run,
) -> dict[str, float]:
    """Search settings of model and recipe by short training runs; the sampler does not change."""
    current = Candidate(model=params.model, recipe=params.recipe)
    source = TrainingSource(latents.resolve(), encoders.prepare(params.model, latents, autoencoder, devices.device()))
    initial = InitialWeights.of(start, params.recipe.new_weights)
    shared = training_trials.TrialInputs(current, search, source, initial, log.handle)
    suggester = training_search.suggester(current, search)
    training_trials.check(shared)
    inputs: dict[str, Any] = {**identities, "params": plain(params)}
    inputs["latents"] = Latents.open(latents, "val", None).hash
    inputs["start"] = None if initial is None else initial.identity
    scheduler = training_search.build_scheduler(search)
    objectives = search.objectives
    rows = run_trials(
        training_trials.trial, suggester, shared, search, objectives, inputs, row_of(out), log.handle, scheduler
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
    suggester: Any,
    shared: Any,
    search: Search,
    metrics: Sequence[str],
    inputs: Mapping[str, Any],
    row: str,
    log: RunHandle,
    scheduler: Any = None,
) -> list[dict[str, Any]]:
    """Run all trials and return their rows; resume an interrupted search if its inputs and code are the same.

    `metrics` are the values that the suggester minimises, `inputs` the cache key of the search, and `row` the name of
    Ray Tune's folder if the search keeps it.
    """
    entry = Cache.here().entry("search", inputs, code.fingerprint(inspect.getfile(trial), trials.__file__))
    with cluster.connect(Path.cwd()), nodes.watched(log):
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
            scheduler=scheduler,
            seed=search.seed,
            keep=workspace.home(Path.cwd()) / RAY_RESULTS / row if search.keep else None,
        )
    entry.remove()
    return rows


def row_of(out: Path) -> str:
    """Return the row whose search writes to this folder; until the stage ends, the folder is named .ROW.partial."""
    return out.name.strip(".").removesuffix(".partial")


def log_winner(log: Run, best: Mapping[str, Any], search: Search) -> None:
    """Log the settings of the best trial as parameters of the search's run, which holds the row's own settings too."""
    log.parameters({"winner.trial": best["trial"], **{f"winner.{path}": best[path] for path in search.space}})


def unseen_clips(others: Sequence[int], count: int) -> list[int]:
    """Return the clips on which to score the winner again: the first `count` of `others`, with a warning if too few.

    A score needs two clips, so return none if there are fewer.
    """
    found = list(others[:count])
    if len(found) < count:
        complain(f"  search.unseen is {count}, but only {len(found)} clips come from videos that no trial uses")
    return found if len(found) > 1 else []


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="experiments", check=problems.before_stage, headlines=HEADLINES)
