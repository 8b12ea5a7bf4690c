"""Schedulers of Ray Tune: which trials go on, stop, pause or copy a better trial."""

from collections.abc import Mapping
from typing import Any, Final

from components.foundation.errors import InputError
from pipeline.runtime import cluster  # noqa: F401  before Ray, which reads its environment variables when imported
from pipeline.tuning.ray_tune import library
from pipeline.tuning.search_space import LogUniform, Ranged, Setting, Uniform, Values
from pipeline.tuning.suggest import Asha, FixedList, LibraryPart, SearchSettings, Stopper

# isort: split
from ray import tune
from ray.tune.schedulers import (
    SCHEDULER_IMPORT,
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

OWN: Final = ("none", "asha")


def build_scheduler(stopper: Stopper, objective: str, steps: int, space: Mapping[str, Values]) -> TrialScheduler:
    """Return the scheduler of a training search. Time is the number of steps; the objective is minimised.

    Population-based training mutates the settings of the space. Raise InputError if Ray Tune has no such scheduler, or
    if the scheduler does not accept its options.
    """
    own: dict[str, Any] = {"time_attr": "step", "metric": objective, "mode": "min"}
    if isinstance(stopper, Asha):
        grace = min(stopper.grace, steps)
        return ASHAScheduler(**own, max_t=steps, grace_period=grace, reduction_factor=stopper.factor)
    if not isinstance(stopper, LibraryPart):
        return FIFOScheduler()
    kind = library.find("stopper", stopper.kind, SCHEDULER_IMPORT, OWN)
    own |= {
        "max_t": steps,
        "hyperparam_mutations": {path: values.values() or _domain(values) for path, values in space.items()},
        "hyperparam_bounds": {
            path: list(values.ends) if isinstance(values, Ranged) else values.values() for path, values in space.items()
        },
        "custom_explore_fn": Clip(space),
    }
    return library.build("stopper", kind, stopper.options, own)


def check(scheduler: TrialScheduler, suggester: Any, first: Setting, search: SearchSettings) -> None:
    """Raise InputError if the scheduler cannot work with the search algorithm or with the space."""
    bohb = isinstance(search.algorithm, LibraryPart) and search.algorithm.kind == "bohb"
    if isinstance(scheduler, HyperBandForBOHB) != bohb:
        raise InputError("stopper hb_bohb and algorithm bohb work only together; set both kinds, or neither")
    if not is_population(scheduler):
        return
    if not isinstance(suggester, FixedList):
        raise InputError(
            "a stopper that changes settings during trials needs all first settings at the start; use the algorithm "
            "grid, random or {kind: variant_generator}"
        )
    for path, values in search.space.items():
        if isinstance(values, Ranged) and not isinstance(first[path], int | float):
            raise InputError(
                f"the current {path} is {first[path]!r}, which the stopper cannot multiply; set it to a number"
            )


def pauses(scheduler: TrialScheduler) -> bool:
    """Return whether the scheduler pauses trials to run others, so that more than the running ones must exist."""
    return isinstance(scheduler, HyperBandScheduler | PopulationBasedTraining)


def is_population(scheduler: TrialScheduler | None) -> bool:
    """Return whether the scheduler copies trials, and therefore gets all settings at the start, without a searcher."""
    return isinstance(scheduler, PopulationBasedTraining)


def _domain(values: Values) -> Any:
    assert isinstance(values, Ranged)
    return tune.loguniform(*values.ends) if isinstance(values, LogUniform) else tune.uniform(*values.ends)


class Clip:
    """Puts a scaled number back into its range: Tune multiplies without looking at the range."""

    def __init__(self, space: Mapping[str, Values]) -> None:
        self.ends = {path: values.ends for path, values in space.items() if isinstance(values, Uniform | LogUniform)}

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the config with all numbers inside their ranges."""
        return config | {path: min(max(config[path], low), high) for path, (low, high) in self.ends.items()}
