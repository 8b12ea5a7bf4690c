"""Run the trials of a search with Ray Tune, in processes that are reused for several trials."""

import json
import math
import pickle
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from components.foundation import checkpoint
from components.telemetry import usage
from components.telemetry.progress import complain, meter
from pipeline.runtime import cluster  # before Ray, which reads its environment variables only when it is imported
from pipeline.tuning.ray_tune import schedulers
from pipeline.tuning.ray_tune.searchers import RoundSearcher
from pipeline.tuning.suggest import FixedList, Suggester

# isort: split
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

POLL_SECONDS: Final = 0.5
RETRIES: Final = 3  # attempts after the first of a trial whose process or node was lost
CHECKPOINTS: Final = 2  # of each trial; the newest may be unfinished when the search is killed
POPULATION_CHECKPOINTS: Final = 4  # of a trial that others copy, which may start after the trial has reported again
FAILED: Final = "failed-"  # begins the names of the files that say which trials ended with an error of Python
NOTICE_SECONDS: Final = 0.5  # between this file and the error; the driver looks for files before each event it handles
STATE: Final = "state"  # folder of a trial's state in a checkpoint
PICKLES: Final = ("search_gen_state-*.json", "searcher-state-*.pkl", "basic-variant-state-*.json")  # of Tune


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics of a trial at one of its steps, and a function that returns the state from which it can continue."""

    metrics: Mapping[str, float]
    state: Callable[[], Mapping[str, Any]] | None


Trial = Callable[[int, Mapping[str, Any], Any], Mapping[str, float] | Iterable[Report]]


def saved_state() -> dict[str, Any] | None:
    """Return the state from which the trial of this process continues, on the CPU; None if the trial begins.

    Raise InputError if the checkpoint is damaged.
    """
    saved = tune.get_checkpoint()
    if saved is None:
        return None
    with saved.as_directory() as folder:
        return checkpoint.load(Path(folder) / STATE, {})


def search(
    trial: Trial,
    settings: Sequence[Mapping[str, Any]] | Suggester | Searcher,
    shared: Any,
    *,
    storage: Path,
    name: str,
    concurrent: int,
    label: str,
    total: int | None = None,
    objectives: Sequence[str] = (),
    scheduler: TrialScheduler | None = None,
    seed: int = 0,
    keep: Path | None = None,
) -> list[dict[str, Any]]:
    """Run trial(number, setting, shared) for each setting; return one row per trial: number, setting, metrics, status.

    `settings` is a list, or a suggester or searcher that gets the `objectives` of earlier trials and suggests at most
    `total` settings. A trial may report several times, each with its `step`; the last metrics count, and the scheduler
    may stop the trial, or pause it and continue it from a reported state. `seed` is that of a scheduler that draws.

    A failed trial gives a row with its error and does not stop the others. A trial whose process or node was lost is
    tried again, RETRIES times, from its last reported state. A process runs several trials, so that a trial can cache
    values for the next. An interrupted search resumes from its state in the folder `name` of `storage`, which is moved
    to `keep` at the end, or deleted.
    """
    if isinstance(settings, Sequence):
        total, settings = len(settings), FixedList(settings)
    assert total is not None
    random.seed(seed)  # the generators that Ray Tune's schedulers draw from
    np.random.seed(seed)
    num_to_keep = POPULATION_CHECKPOINTS if schedulers.is_population(scheduler) else CHECKPOINTS
    path, collector = storage.resolve() / name, Collector.remote()  # type: ignore[attr-defined]
    trainable = _trainable(trial, shared, collector, concurrent, path)
    tuner = _restore(path, trainable, label) or tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            scheduler=scheduler,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            **_source(settings, total, objectives, scheduler, concurrent),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(path.parent),
            verbose=0,
            callbacks=[OnlyLostTrials(path)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=num_to_keep),
        ),
        **_population(settings, scheduler),
    )
    rows = _rows(_fit(tuner, collector, total, label))
    usage.TOTAL.uses.update(ray.get(collector.read.remote()))
    _put_away(path, keep)
    return rows


def _put_away(path: Path, keep: Path | None) -> None:
    """Move the folder of a finished search to `keep`, replacing what is there; delete the folder if `keep` is None."""
    for file in path.glob(f"{FAILED}*"):
        file.unlink()
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, keep)
    shutil.rmtree(path, ignore_errors=True)


def _restore(path: Path, trainable: Any, label: str) -> tune.Tuner | None:
    """Return the interrupted search in a folder; delete the folder and return None if there is none or it is damaged.

    The files are read here first, because Tune would silently drop the trials that it cannot read.
    """
    if tune.Tuner.can_restore(str(path)):
        try:
            for file in path.glob("experiment_state-*.json"):
                json.loads(file.read_text(encoding="utf-8"))
            for file in (found for name in PICKLES for found in path.glob(name)):
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


def _source(
    settings: Suggester | Searcher,
    total: int,
    objectives: Sequence[str],
    scheduler: TrialScheduler | None,
    concurrent: int,
) -> dict[str, Any]:
    """Return the arguments of TuneConfig that say where settings come from and how many trials run at the same time.

    A scheduler that pauses trials needs more trials than those that run; only their resources limit these.
    """
    paused = scheduler is not None and schedulers.pauses(scheduler)
    if schedulers.is_population(scheduler):
        return {"num_samples": 1}
    searcher = settings if isinstance(settings, Searcher) else RoundSearcher(settings, tuple(objectives))
    return {
        "num_samples": total,
        "search_alg": searcher,
        "max_concurrent_trials": None if paused else concurrent,
    }


def _population(settings: Suggester | Searcher, scheduler: TrialScheduler | None) -> dict[str, Any]:
    """Return the arguments of Tuner if the scheduler takes no searcher: all settings, as a grid over their numbers."""
    if not schedulers.is_population(scheduler):
        return {}
    assert isinstance(settings, FixedList)
    points = settings.settings

    def value(path: str) -> Any:
        return tune.sample_from(lambda config: points[config["trial"]][path])

    numbers = tune.grid_search(list(range(len(points))))
    return {"param_space": {"trial": numbers, **{path: value(path) for path in points[0]}}}


def _trainable(trial: Trial, shared: Any, collector: Any, concurrent: int, path: Path) -> Any:
    """Return the trial as a Tune function with its share of the cluster's CPUs and GPUs.

    An error of Python leaves a file in the folder `path` of the search, for OnlyLostTrials.
    """
    threads = cluster.cpus_per_task(concurrent)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    resources = {"cpu": float(threads)}
    if gpus:
        resources["gpu"] = min(1.0, math.floor(1000 * gpus / concurrent) / 1000)

    def trainable(config: dict[str, Any], shared: Any) -> None:
        torch.set_num_threads(threads)
        measure, number = cluster.measure(), _number(tune.get_context().get_trial_name())
        try:
            setting = {path: value for path, value in config.items() if path != "trial"}
            result = trial(number, setting, shared)
            for report in [Report(result, None)] if isinstance(result, Mapping) else result:
                _report(report)
        except Exception:
            (path / f"{FAILED}{number}").touch()
            time.sleep(NOTICE_SECONDS)
            raise
        finally:
            collector.add.remote(number, measure.key, measure.use())

    return tune.with_resources(tune.with_parameters(trainable, shared=shared), resources)


def _report(report: Report) -> None:
    """Report metrics to Tune, with a checkpoint if the trial has a state."""
    if report.state is None:
        tune.report(dict(report.metrics))
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / STATE, report.state(), {})
        tune.report(dict(report.metrics), checkpoint=tune.Checkpoint.from_directory(folder))


class OnlyLostTrials(tune.Callback):
    """Leaves second attempts to trials whose process or node was lost: Tune repeats every failed trial.

    An error of Python would come again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Take the attempts from the trials that have reported an error of Python."""
        failed = {file.name for file in self.folder.glob(f"{FAILED}*")}
        for trial in trials:
            if f"{FAILED}{_number(str(trial))}" in failed:
                trial.max_failures = 0


def _name(trial: Any) -> str:
    return f"trial-{trial.config['trial']}"


def _number(name: str | None) -> int:
    """Return the number of the trial of this name: its config has another if it was copied from another trial."""
    assert name is not None
    return int(name.rpartition("-")[2])


@ray.remote(num_cpus=0)
class Collector:
    """Actor that collects the resource usage of the trials that have ended since the driver started."""

    def __init__(self) -> None:
        self.uses: dict[str, usage.Usage] = {}
        self.ended: set[int] = set()

    def add(self, number: int, key: str, use: usage.Usage) -> None:
        """Store the usage of a part of a trial."""
        self.uses[key] = use
        self.ended.add(number)

    def read(self) -> dict[str, usage.Usage]:
        """Return the usage of all ended trials."""
        return self.uses

    def count(self) -> int:
        """Return the number of trials that have ended or paused."""
        return len(self.ended)


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
            progress.update(ray.get(collector.count.remote()))
        progress.update(len(done.result()))
    return done.result()


def _rows(results: tune.ResultGrid) -> list[dict[str, Any]]:
    rows = {}
    for position in range(len(results)):
        result = results[position]
        # Tune keeps the config of a trial that failed before its first result only in the trial's folder
        config = result.config or json.loads((Path(result.path) / "params.json").read_text(encoding="utf-8"))
        index = _number(Path(result.path).name)
        setting = {path: value for path, value in config.items() if path != "trial"}
        metrics = {} if result.error else dict(result.metrics or {})
        status = "failed" if result.error else "finished"
        error = _reason(result.error) if result.error else None
        rows[index] = {"trial": index, **setting, **metrics, "status": status, "error": error}
        if result.error:
            complain(f"  trial {index} failed: {error}")
    return [rows[index] for index in sorted(rows)]


def _reason(error: Exception) -> str:
    """Return why a trial failed, in one line."""
    return cluster.death_message(error) or str(error).strip().splitlines()[-1]
