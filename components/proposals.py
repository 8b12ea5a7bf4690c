"""Which settings a search tries: every point of a grid, points drawn at random, or what Optuna makes of the results.

All chance comes from the seed, and Optuna is asked in rounds whose results are told in the order of the trials, so that
a repeated search tries the same, however long each trial takes.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import Field, JsonValue

from components.config import Config
from components.errors import InputError
from components.space import Choices, Grid, Integers, LogUniform, Setting, Uniform, Values

Algorithm = Literal["grid", "random", "optuna"]
ATTEMPTS: Final = 50  # draws until one is new
Told = Sequence[Sequence[float] | None]  # the objectives of each trial, lower is better; None has failed


class NoStopper(Config):
    """Every trial runs to its end."""

    kind: Literal["none"]


class Asha(Config):
    """Asynchronous successive halving (Li et al. 2020): of trials as long as this one, only the best go on."""

    kind: Literal["asha"]
    grace: Annotated[int, Field(ge=1)]  # steps that every trial may take
    factor: Annotated[int, Field(ge=2)]  # one of so many goes on, to so many times the steps


Stopper = Annotated[NoStopper | Asha, Field(discriminator="kind")]


@runtime_checkable
class Proposals(Protocol):
    """Settings to try, round after round."""

    def following(self, told: Told) -> list[Setting]:
        """The next round, after the results of all rounds before it; empty at the end."""
        ...


class Listed:
    """Settings that are known beforehand: one round."""

    def __init__(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self.settings = [dict(setting) for setting in settings]

    def following(self, told: Told) -> list[Setting]:
        """All that are not told."""
        return self.settings[len(told) :]


def propose(
    first: Setting,
    space: Mapping[str, Values],
    algorithm: Algorithm,
    objectives: int,
    *,
    trials: int,
    together: int,
    seed: int,
) -> Proposals:
    """The first setting, then others of the space, so many in all; Optuna is asked for so many `together`.

    Raises InputError for a space that is empty or that the algorithm cannot go through.
    """
    if not space and trials > 1:
        raise InputError("the space of the search is empty, so there is nothing to try; give it settings, or trials: 1")
    if algorithm == "grid":
        return Listed([first, *(point for point in every_point(space, trials) if point != first)] if space else [first])
    if algorithm == "random":
        return Listed(drawn(first, space, trials, seed))
    return Optuna(first, space, objectives, trials=trials, together=together, seed=seed)


def every_point(space: Mapping[str, Values], trials: int) -> list[Setting]:
    """The whole grid. Raises InputError for ranges, and for a grid of more points than trials."""
    for path, values in space.items():
        if values.values() is None:
            raise InputError(
                f"the algorithm grid cannot go through the range of {path}; give it choices or a grid, "
                "or take the algorithm random or optuna"
            )
    points = list(_product(space))
    if len(points) > trials:
        raise InputError(f"the grid has {len(points)} points, but trials is {trials}; raise it, or draw at random")
    return points


def drawn(first: Setting, space: Mapping[str, Values], trials: int, seed: int) -> list[Setting]:
    """The first setting, then others without repetition: a longer search goes on from a shorter one."""
    found = [first]
    if all(values.values() is not None for values in space.values()):
        grid = list(_product(space))
        for point in random.Random(seed).sample(grid, len(grid)):
            if point not in found:
                found.append(point)
        return found[:trials]
    chance = random.Random(seed)
    return [first, *({path: values.draw(chance) for path, values in space.items()} for _ in range(trials - 1))]


def _product(space: Mapping[str, Values]) -> Any:
    options = [values.values() or [] for values in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*options))


class Optuna:
    """Optuna's tree-structured Parzen estimator, asked in rounds; a setting that was tried is not tried again."""

    def __init__(
        self, first: Setting, space: Mapping[str, Values], objectives: int, *, trials: int, together: int, seed: int
    ) -> None:
        self.first, self.space, self.objectives = first, dict(space), objectives
        self.trials, self.together, self.seed = trials, together, seed
        self._study: Any = None
        self._settings: list[Setting] = []
        self._asked: dict[int, Any] = {}  # Optuna's own trials that are not told yet, by their place

    def following(self, told: Told) -> list[Setting]:
        """The next round. An object that is new asks for the rounds that are told once more, and so knows as much."""
        if self._study is None:
            self._study = self._begin()
        while len(self._settings) <= len(told):
            before = len(self._settings)
            self._tell(told)
            self._ask()
            if len(self._settings) == before:
                return []
        return self._settings[len(told) :]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_study": None, "_settings": [], "_asked": {}}

    def _begin(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=min(10, max(2, self.trials // 3)))
        return optuna.create_study(directions=["minimize"] * self.objectives, sampler=sampler)

    def _ask(self) -> None:
        """A round more, as far as there is something new to try."""
        if not self._settings:
            self._settings.append(self.first)
        end = min(self.trials, len(self._settings) // self.together * self.together + self.together)
        for _ in range(ATTEMPTS * self.together):
            if len(self._settings) >= end:
                return
            trial = self._study.ask({path: _distribution(values) for path, values in self.space.items()})
            setting = {path: _value(self.space[path], trial.params[path]) for path in self.space}
            if setting in self._settings:
                self._study.tell(trial, state=_state("FAIL"))
            else:
                self._asked[len(self._settings)] = trial
                self._settings.append(setting)

    def _tell(self, told: Told) -> None:
        import optuna

        if self._settings and told[0] is not None and 0 not in self._asked and not self._study.user_attrs:
            self._study.set_user_attr("begun", True)
            if all(_contains(self.space[path], value) for path, value in self.first.items()):
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params={path: _code(self.space[path], value) for path, value in self.first.items()},
                        distributions={path: _distribution(values) for path, values in self.space.items()},
                        values=list(told[0]),
                    )
                )
        for place in sorted(self._asked):
            values = told[place]
            self._study.tell(self._asked.pop(place), values, state=_state("COMPLETE" if values else "FAIL"))


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


def _value(values: Values, code: Any) -> JsonValue:
    """The value that Optuna's number or word stands for."""
    match values:
        case Choices():
            return json.loads(code)
        case Grid():
            return (values.values() or [])[code]
        case _:
            return code


def _code(values: Values, value: JsonValue) -> Any:
    match values:
        case Choices():
            return json.dumps(value)
        case Grid():
            return (values.values() or []).index(value)
        case _:
            return value


def _contains(values: Values, value: JsonValue) -> bool:
    every = values.values()
    if every is not None:
        return value in every
    low, high = values.uniform if isinstance(values, Uniform) else values.loguniform  # type: ignore[union-attr]
    return isinstance(value, float | int) and low <= value <= high
