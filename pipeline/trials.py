"""The door to Ray Tune: a search over settings, one trial a setting."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster import share  # before Ray, which it gives its settings
from pipeline.progress import Meter, complain, meter

# isort: split
from ray import tune


def search(
    trial: Callable[[Mapping[str, Any], Any], dict[str, float]],
    settings: Sequence[Mapping[str, Any]],
    shared: Any,
    *,
    storage: Path,
    name: str,
    concurrent: int,
    label: str,
) -> list[dict[str, Any]]:
    """trial(setting, shared) for every setting through Ray Tune; rows of setting, metrics and status in their order.

    A trial that fails is a row with its error; the others go on. A search that was killed goes on where it was.
    """
    threads = share(concurrent)

    def trainable(config: dict[str, Any], shared: Any) -> None:
        torch.set_num_threads(threads)
        tune.report({"trial": config["trial"], **trial(settings[config["trial"]], shared)})

    placed = tune.with_resources(tune.with_parameters(trainable, shared=shared), {"cpu": threads})
    path = storage.resolve() / name
    if tune.Tuner.can_restore(str(path)):
        return _rows(tune.Tuner.restore(str(path), trainable=placed, restart_errored=True).fit(), settings)
    with meter(label, len(settings), "trials") as shown:
        tuner = tune.Tuner(
            placed,
            param_space={"trial": tune.grid_search(list(range(len(settings))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(name=name, storage_path=str(path.parent), verbose=0, callbacks=[Finished(shown)]),
        )
        return _rows(tuner.fit(), settings)


def _rows(results: tune.ResultGrid, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = {}
    for place in range(len(results)):
        result = results[place]
        index = (result.config or {})["trial"]
        metrics = {} if result.error else dict(result.metrics or {})
        status = "failed" if result.error else "finished"
        rows[index] = {"trial": index, **settings[index], **metrics, "status": status}
        if result.error:
            complain(f"  trial {index} failed: {str(result.error).strip().splitlines()[-1]}")
    return [rows[index] for index in sorted(rows)]


class Finished(tune.Callback):
    """Counts the trials that have ended."""

    def __init__(self, shown: Meter) -> None:
        self.shown = shown

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One more."""
        self.shown.advance()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One more, though it failed."""
        self.shown.advance()
