"""Suggest the settings that a search tries: all grid points, random points, or points that Optuna suggests.

All randomness comes from the seed. Optuna suggests settings in rounds and gets each round's results in the order of the
trials. A repeated search therefore tries the same settings, however long each trial takes.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BeforeValidator, ConfigDict, Discriminator, JsonValue, Tag, model_validator

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count, Seed, Several
from pipeline.tuning.search_space import (
    Choices,
    Grid,
    Integers,
    LogUniform,
    Setting,
    Space,
    Uniform,
    Values,
    contains,
    decode,
    encode,
)

ATTEMPTS: Final = 50  # draws from Optuna per setting of a round, until a setting is new
Results = Sequence[Sequence[float] | None]  # objectives of each finished trial, lower is better; None if it failed


OWN_ALGORITHMS: Final = ("grid", "random", "optuna")


class LibraryPart(Config):
    """A class of Ray Tune, named as in Tune, with arguments of its constructor as further keys.

    The kind and the arguments are checked when the class is built, because only Ray knows them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    kind: str

    @property
    def options(self) -> dict[str, JsonValue]:
        """Arguments of the constructor."""
        return dict(self.__pydantic_extra__)


class NoStopper(Config):
    """No early stopping: every trial runs to its end."""

    kind: Literal["none"]


class Asha(Config):
    """Asynchronous successive halving (Li et al. 2020): at certain step counts only the best trials continue."""

    kind: Literal["asha"]
    grace: Count  # steps that every trial runs before the first halving
    factor: Several  # the best 1 / factor of the trials continue to `factor` times the steps


def _algorithm(value: Any) -> Any:
    if isinstance(value, Mapping | LibraryPart) or value in OWN_ALGORITHMS:
        return _with_kind(value)
    raise ValueError(f"use {', '.join(OWN_ALGORITHMS)}, or a table with the kind and the options of a Tune searcher")


def _with_kind(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value.get("kind"), str):
        raise ValueError("it lacks the key kind; add it")
    return value


def _stopper(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return kind if kind in ("none", "asha") else "library"


Algorithm = Annotated[Literal["grid", "random", "optuna"] | LibraryPart, BeforeValidator(_algorithm)]
Stopper = Annotated[
    Annotated[NoStopper, Tag("none")] | Annotated[Asha, Tag("asha")] | Annotated[LibraryPart, Tag("library")],
    Discriminator(_stopper),
    BeforeValidator(_with_kind),
]


class SearchSettings(Config):
    """The settings that both kinds of search have."""

    space: Space  # values of each setting that the search varies; the first trial uses the current settings
    algorithm: Algorithm  # how settings are chosen: by the code here, or by a searcher of Ray Tune
    trials: Count  # total number, including the first trial
    objectives: tuple[str, ...]  # the first ranks; all form the Pareto front
    concurrent: Count  # maximum number of trials that run at the same time
    seed: Seed  # of the algorithm; trials use the seeds of the protocol and the recipe
    keep: bool  # keep Ray Tune's folder of the search in data/ray_results

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, content: Any) -> Any:
        """Accept searches that were written before there was `keep`."""
        if not isinstance(content, Mapping):
            return content
        objectives = content.get("objectives", ())  # after a validator of the whole model, a list is no tuple
        lists = {"objectives": tuple(objectives)} if isinstance(objectives, list) else {}
        return {"keep": False, **content, **lists}


@runtime_checkable
class Suggester(Protocol):
    """Search algorithm that suggests settings in rounds."""

    def suggest(self, results: Results) -> list[Setting]:
        """Return the settings of the next round, given the results of all earlier rounds; empty at the end."""
        ...


class FixedList:
    """A fixed list of settings, suggested in one round."""

    def __init__(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self.settings = [dict(setting) for setting in settings]

    def suggest(self, results: Results) -> list[Setting]:
        """Return all settings without a result."""
        return self.settings[len(results) :]


def grid_points(space: Mapping[str, Values], trials: int) -> list[Setting]:
    """Return all points of the grid. Raise InputError if the space has a range, or more points than `trials`."""
    for path, values in space.items():
        if values.values() is None:
            raise InputError(
                f"the algorithm grid cannot enumerate the continuous range of {path}; describe it with choices, grid "
                "or integers, or use the algorithm random or optuna"
            )
    points = list(_product(space))
    if len(points) > trials:
        raise InputError(
            f"the grid has {len(points)} points, but trials is {trials}; raise trials, or use the algorithm random"
        )
    return points


def random_settings(first: Setting, space: Mapping[str, Values], trials: int, seed: int) -> list[Setting]:
    """Return `first` and random settings, at most `trials` in all.

    A longer search starts with the settings of a shorter one. A space without continuous ranges gives no setting twice.
    """
    settings = [first]
    if all(values.values() is not None for values in space.values()):
        grid = list(_product(space))
        for point in random.Random(seed).sample(grid, len(grid)):
            if point not in settings:
                settings.append(point)
        return settings[:trials]
    generator = random.Random(seed)
    return [first, *({path: values.draw(generator) for path, values in space.items()} for _ in range(trials - 1))]


def _product(space: Mapping[str, Values]) -> Any:
    options = [values.values() or [] for values in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*options))


class Optuna:
    """Optuna's tree-structured Parzen estimator, in rounds. It suggests no setting twice."""

    def __init__(
        self, first: Setting, space: Mapping[str, Values], objectives: int, *, trials: int, round_size: int, seed: int
    ) -> None:
        self.first, self.space, self.objectives = first, dict(space), objectives
        self.trials, self.round_size, self.seed = trials, round_size, seed
        self._study: Any = None
        self._settings: list[Setting] = []
        self._pending: dict[int, Any] = {}  # index of a setting -> Optuna's trial without a result

    def suggest(self, results: Results) -> list[Setting]:
        """Return the settings of the next round; empty at the end.

        A new or unpickled object replays the finished rounds with their results, which restores the same state.
        """
        if self._study is None:
            self._study = self._create_study()
        while len(self._settings) <= len(results):
            before = len(self._settings)
            self._report(results)
            self._add_round()
            if len(self._settings) == before:
                return []
        return self._settings[len(results) :]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_study": None, "_settings": [], "_pending": {}}

    def _create_study(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=min(10, max(2, self.trials // 3)))
        return optuna.create_study(directions=["minimize"] * self.objectives, sampler=sampler)

    def _add_round(self) -> None:
        """Add the settings of a round; fewer if Optuna suggests too few new ones."""
        if not self._settings:
            self._settings.append(self.first)
        end = min(self.trials, (len(self._settings) // self.round_size + 1) * self.round_size)
        for _ in range(ATTEMPTS * self.round_size):
            if len(self._settings) >= end:
                return
            trial = self._study.ask({path: _distribution(values) for path, values in self.space.items()})
            setting = {path: decode(self.space[path], trial.params[path]) for path in self.space}
            if setting in self._settings:
                self._study.tell(trial, state=_state("FAIL"))
            else:
                self._pending[len(self._settings)] = trial
                self._settings.append(setting)

    def _report(self, results: Results) -> None:
        """Report the results to Optuna. `first` did not come from Optuna: add it as a trial if it lies in the space."""
        import optuna

        if self._settings and results[0] is not None and not self._study.user_attrs:
            self._study.set_user_attr("first_reported", True)
            if all(contains(self.space[path], value) for path, value in self.first.items()):
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params={path: encode(self.space[path], value) for path, value in self.first.items()},
                        distributions={path: _distribution(values) for path, values in self.space.items()},
                        values=list(results[0]),
                    )
                )
        for index in sorted(self._pending):
            values = results[index]
            self._study.tell(self._pending.pop(index), values, state=_state("COMPLETE" if values else "FAIL"))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _distribution(values: Values) -> Any:
    from optuna import distributions

    match values:
        case Choices():
            return distributions.CategoricalDistribution([json.dumps(value) for value in values.choices])
        case Grid():
            return distributions.IntDistribution(0, values.grid[2] - 1)
        case Uniform():
            return distributions.FloatDistribution(*values.uniform)
        case LogUniform():
            return distributions.FloatDistribution(*values.loguniform, log=True)
        case Integers():
            return distributions.IntDistribution(*values.integers)
