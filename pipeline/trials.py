"""The door to Ray Tune: a search, one trial a setting, over processes that are used again."""

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

from components.proposals import Asha, Listed, NoStopper, Proposals
from pipeline import cluster, cost  # cluster before Ray, which it gives its settings
from pipeline.progress import complain, meter

# isort: split
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

Trial = Callable[[int, Mapping[str, Any], Any], Mapping[str, float] | Iterable[Mapping[str, float]]]
LOOK_SECONDS = 0.5


def search(
    trial: Trial,
    settings: Sequence[Mapping[str, Any]] | Proposals,
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
    """trial(number, setting, shared) for every setting through Ray Tune; rows in their order: setting, metrics, status.

    Settings are listed or proposed, at most `total`, by the `objectives` of those before; of a trial that gives its
    metrics one after the other, each with its `step`, the last ones count, and a stopper may end it before `steps`.
    A process that is done with a trial takes another, so that what a trial keeps in memory is there for the next. A
    trial that fails is a row with its error; the others go on. A search that was killed goes on where it was, and one
    that came to its end leaves nothing behind.
    """
    proposals = settings if isinstance(settings, Proposals) else Listed(settings)
    most = total if total is not None else len(settings)  # type: ignore[arg-type]
    path, counter = storage.resolve() / name, Counter.remote()  # type: ignore[attr-defined]
    placed = _placed(trial, shared, counter, concurrent)
    if tune.Tuner.can_restore(str(path)):
        complain(f"  {label}: going on with a search that was interrupted")
        tuner = tune.Tuner.restore(str(path), trainable=placed)
    else:
        tuner = tune.Tuner(
            placed,
            tune_config=tune.TuneConfig(
                num_samples=most,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                search_alg=InRounds(proposals, tuple(objectives)),
                scheduler=_scheduler(stopper, objectives, steps),
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(name=name, storage_path=str(path.parent), verbose=0),
        )
    rows = _rows(_watched(tuner, counter, most, label))
    cost.LEDGER.uses.update(ray.get(counter.read.remote()))
    shutil.rmtree(path, ignore_errors=True)
    return rows


def _placed(trial: Trial, shared: Any, counter: Any, concurrent: int) -> Any:
    threads = cluster.share(concurrent)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    resources = {"cpu": float(threads)}
    if gpus:
        resources["gpu"] = min(1.0, math.floor(1000 * gpus / concurrent) / 1000)

    def trainable(config: dict[str, Any], shared: Any) -> None:
        torch.set_num_threads(threads)
        measure = cluster.measure()
        try:
            found = trial(config["trial"], config["setting"], shared)
            for metrics in [found] if isinstance(found, Mapping) else found:
                tune.report(dict(metrics))
        finally:
            counter.advance.remote(measure.key, measure.use())

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


class InRounds(Searcher):
    """Proposals as Tune asks for them: a round is proposed when the one before has ended, whoever ended first."""

    def __init__(self, proposals: Proposals, objectives: tuple[str, ...]) -> None:
        super().__init__()
        self.proposals, self.objectives = proposals, objectives
        self.settings: list[dict[str, Any]] = []
        self.asked: dict[str, int] = {}
        self.told: dict[int, list[float] | None] = {}

    def suggest(self, trial_id: str) -> Any:
        """The setting of a new trial; None while a round is on its way."""
        place = len(self.asked)
        if place == len(self.settings):
            if len(self.told) < place:
                return None
            following = self.proposals.following([self.told[index] for index in range(place)])
            if not following:
                return Searcher.FINISHED
            self.settings += following
        self.asked[trial_id] = place
        return {"trial": place, "setting": self.settings[place]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What came of a trial; a number that is not finite is a failure."""
        values = None if error or not result else [float(result.get(name, math.nan)) for name in self.objectives]
        self.told[self.asked[trial_id]] = values if values is not None and all(map(math.isfinite, values)) else None

    def save(self, checkpoint_path: str) -> None:
        """All of it, beside Tune's own notes."""
        content = {name: self.__dict__[name] for name in ("proposals", "objectives", "settings", "asked", "told")}
        Path(checkpoint_path).write_bytes(pickle.dumps(content))

    def restore(self, checkpoint_path: str) -> None:
        """As it was."""
        self.__dict__ |= pickle.loads(Path(checkpoint_path).read_bytes())


@ray.remote(num_cpus=0)
class Counter:
    """Trials that have ended in this process's lifetime, and what each has used."""

    def __init__(self) -> None:
        self.uses: dict[str, cost.Use] = {}

    def advance(self, key: str, use: cost.Use) -> None:
        """One more."""
        self.uses[key] = use

    def read(self) -> dict[str, cost.Use]:
        """All of them."""
        return self.uses


def _watched(tuner: tune.Tuner, counter: Any, total: int, label: str) -> tune.ResultGrid:
    """The results; in a thread, because Tune takes Ctrl-C in the main one for an early end that looks like success."""
    done: Future[tune.ResultGrid] = Future()

    def fit() -> None:
        try:
            done.set_result(tuner.fit())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    with meter(label, total, "trials") as shown:
        while not wait([done], LOOK_SECONDS).done:
            shown.update(len(ray.get(counter.read.remote())))
        shown.update(len(done.result()))
    return done.result()


def _rows(results: tune.ResultGrid) -> list[dict[str, Any]]:
    rows = {}
    for place in range(len(results)):
        result = results[place]
        # a trial that failed before its first result has its choices nowhere but in its folder
        config = result.config or json.loads((Path(result.path) / "params.json").read_text(encoding="utf-8"))
        index = config["trial"]
        metrics = {} if result.error else dict(result.metrics or {})
        status = "failed" if result.error else "finished"
        error = str(result.error).strip().splitlines()[-1] if result.error else None
        rows[index] = {"trial": index, **config["setting"], **metrics, "status": status, "error": error}
        if result.error:
            complain(f"  trial {index} failed: {error}")
    return [rows[index] for index in sorted(rows)]
