"""Run the trials of a search with Ray Tune, in processes that are reused for several trials."""

import json
import math
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import torch

from components.telemetry import usage
from components.telemetry.progress import complain, meter
from pipeline.runtime import cluster  # before Ray, which reads its environment variables only when it is imported
from pipeline.tuning.suggest import Asha, FixedList, NoStopper, Suggester

# isort: split
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

Trial = Callable[[int, Mapping[str, Any], Any], Mapping[str, float] | Iterable[Mapping[str, float]]]
POLL_SECONDS = 0.5


def search(
    trial: Trial,
    settings: Sequence[Mapping[str, Any]] | Suggester,
    shared: Any,
    *,
    storage: Path,
    name: str,
    concurrent: int,
    label: str,
    total: int | None = None,
    objectives: Sequence[str] = (),
    stopper: NoStopper | Asha | None = None,
    steps: int = 1,
) -> list[dict[str, Any]]:
    """Run trial(number, setting, shared) for each setting; return one row per trial: number, setting, metrics, status.

    `settings` is a list, or a suggester that gets the `objectives` of earlier trials and suggests at most `total`
    settings. A trial may yield metrics several times, each with its `step`; the last ones count, and the stopper may
    end the trial before `steps`. A failed trial gives a row with its error and does not stop the others.

    A process runs several trials, so that a trial can cache values for the next. An interrupted search resumes from
    its state in the folder `name` of `storage`, which is deleted at the end.
    """
    suggester = settings if isinstance(settings, Suggester) else FixedList(settings)
    num_trials = total if total is not None else len(settings)  # type: ignore[arg-type]
    path, collector = storage.resolve() / name, UsageCollector.remote()  # type: ignore[attr-defined]
    trainable = _trainable(trial, shared, collector, concurrent)
    tuner = _restore(path, trainable, label) or tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=num_trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            search_alg=RoundSearcher(suggester, tuple(objectives)),
            scheduler=_scheduler(stopper, objectives, steps),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(path.parent), verbose=0),
    )
    rows = _rows(_fit(tuner, collector, num_trials, label))
    usage.TOTAL.uses.update(ray.get(collector.read.remote()))
    shutil.rmtree(path, ignore_errors=True)
    return rows


def _restore(path: Path, trainable: Any, label: str) -> tune.Tuner | None:
    """Return the interrupted search in a folder; delete the folder and return None if there is none or it is damaged.

    The files are read here first, because Tune would silently drop the trials that it cannot read.
    """
    if tune.Tuner.can_restore(str(path)):
        try:
            for file in path.glob("experiment_state-*.json"):
                json.loads(file.read_text(encoding="utf-8"))
            for file in (*path.glob("search_gen_state-*.json"), *path.glob("searcher-state-*.pkl")):
                pickle.loads(file.read_bytes())
            tuner = tune.Tuner.restore(str(path), trainable=trainable)
        except Exception as error:  # a damaged pickle can raise nearly anything
            complain(
                f"  {label}: the state of the interrupted search in {path} is damaged ({error}); starting at trial 0"
            )
        else:
            complain(f"  {label}: resuming an interrupted search")
            return tuner
    shutil.rmtree(path, ignore_errors=True)
    return None


def _trainable(trial: Trial, shared: Any, collector: Any, concurrent: int) -> Any:
    """Return the trial as a Tune function with its share of the cluster's CPUs and GPUs."""
    threads = cluster.cpus_per_task(concurrent)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    resources = {"cpu": float(threads)}
    if gpus:
        resources["gpu"] = min(1.0, math.floor(1000 * gpus / concurrent) / 1000)

    def trainable(config: dict[str, Any], shared: Any) -> None:
        torch.set_num_threads(threads)
        measure = cluster.measure()
        try:
            result = trial(config["trial"], config["setting"], shared)
            for metrics in [result] if isinstance(result, Mapping) else result:
                tune.report(dict(metrics))
        finally:
            collector.add.remote(measure.key, measure.use())

    return tune.with_resources(tune.with_parameters(trainable, shared=shared), resources)


def _scheduler(stopper: NoStopper | Asha | None, objectives: Sequence[str], steps: int) -> Any:
    if not isinstance(stopper, Asha):
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="step",
        metric=objectives[0],
        mode="min",
        max_t=steps,
        grace_period=min(stopper.grace, steps),
        reduction_factor=stopper.factor,
    )


def _name(trial: Any) -> str:
    return f"trial-{trial.config['trial']}"


class RoundSearcher(Searcher):
    """Adapter from a suggester to Tune's Searcher: a round starts when all trials of the previous round have ended.

    The suggestions therefore do not depend on the order in which the trials of a round end.
    """

    def __init__(self, suggester: Suggester, objectives: tuple[str, ...]) -> None:
        super().__init__()
        self.suggester, self.objectives = suggester, objectives
        self.settings: list[dict[str, Any]] = []
        self.indices: dict[str, int] = {}  # Tune's trial id -> index of the setting
        self.results: dict[int, list[float] | None] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the setting of a new trial; None while trials of the current round run."""
        index = len(self.indices)
        if index == len(self.settings):
            if len(self.results) < index:
                return None
            suggested = self.suggester.suggest([self.results[earlier] for earlier in range(index)])
            if not suggested:
                return Searcher.FINISHED
            self.settings += suggested
        self.indices[trial_id] = index
        return {"trial": index, "setting": self.settings[index]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Store the objectives of a trial; a trial with an objective that is not finite counts as failed."""
        values = None if error or not result else [float(result.get(name, math.nan)) for name in self.objectives]
        finite = values is not None and all(map(math.isfinite, values))
        self.results[self.indices[trial_id]] = values if finite else None

    def save(self, checkpoint_path: str) -> None:
        """Write the searcher's state to a file."""
        content = {name: self.__dict__[name] for name in ("suggester", "objectives", "settings", "indices", "results")}
        Path(checkpoint_path).write_bytes(pickle.dumps(content))

    def restore(self, checkpoint_path: str) -> None:
        """Restore the searcher's state from a file."""
        self.__dict__ |= pickle.loads(Path(checkpoint_path).read_bytes())


@ray.remote(num_cpus=0)
class UsageCollector:
    """Actor that collects the resource usage of the trials that have ended since the driver started."""

    def __init__(self) -> None:
        self.uses: dict[str, usage.Usage] = {}

    def add(self, key: str, use: usage.Usage) -> None:
        """Store the usage of one trial."""
        self.uses[key] = use

    def read(self) -> dict[str, usage.Usage]:
        """Return the usage of all ended trials."""
        return self.uses


def _fit(tuner: tune.Tuner, collector: Any, total: int, label: str) -> tune.ResultGrid:
    """Run the search with a progress bar and return its results.

    Tune runs in a thread: in the main thread, it would handle Ctrl-C and return as if the search had finished.
    """
    done: Future[tune.ResultGrid] = Future()

    def fit() -> None:
        try:
            done.set_result(tuner.fit())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    with meter(label, total, "trials") as progress:
        while not wait([done], POLL_SECONDS).done:
            progress.update(len(ray.get(collector.read.remote())))
        progress.update(len(done.result()))
    return done.result()


def _rows(results: tune.ResultGrid) -> list[dict[str, Any]]:
    rows = {}
    for position in range(len(results)):
        result = results[position]
        # Tune keeps the config of a trial that failed before its first result only in the trial's folder
        config = result.config or json.loads((Path(result.path) / "params.json").read_text(encoding="utf-8"))
        index = config["trial"]
        metrics = {} if result.error else dict(result.metrics or {})
        status = "failed" if result.error else "finished"
        error = _reason(result.error) if result.error else None
        rows[index] = {"trial": index, **config["setting"], **metrics, "status": status, "error": error}
        if result.error:
            complain(f"  trial {index} failed: {error}")
    return [rows[index] for index in sorted(rows)]


def _reason(error: Exception) -> str:
    """Return why a trial failed, in one line."""
    return cluster.death_message(error) or str(error).strip().splitlines()[-1]
