"""Searchers of Ray Tune, and the adapters through which Ray Tune gets the settings of all search algorithms."""

import logging
import math
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from components.foundation.errors import InputError
from pipeline.runtime import cluster  # noqa: F401  before Ray, which reads its environment variables when imported
from pipeline.tuning.ray_tune import library
from pipeline.tuning.search_space import (
    Choices,
    Grid,
    Integers,
    LogUniform,
    Setting,
    Uniform,
    Values,
    contains,
    decode,
    encode,
)
from pipeline.tuning.suggest import LibraryPart, Suggester

# isort: split
from ray import tune
from ray.tune.search import SEARCH_ALG_IMPORT, BasicVariantGenerator, Searcher
from ray.tune.search.variant_generator import generate_variants

SEEDS: Final = ("seed", "random_state_seed", "random_state")  # names that searchers give to the seed


def is_variant_generator(algorithm: LibraryPart) -> bool:
    """Return whether this is Tune's own grid and random search. Raise InputError if Ray Tune has no such searcher."""
    return library.find("algorithm", algorithm.kind, SEARCH_ALG_IMPORT) is BasicVariantGenerator


def variants(algorithm: LibraryPart, space: Mapping[str, Values], trials: int, seed: int) -> list[Setting]:
    """Return settings that Tune's BasicVariantGenerator draws: `grid` values as a grid, all others at random.

    Raise InputError if an option is not valid or the grid has more points than `trials`.
    """
    own = {"points_to_evaluate": None, "max_concurrent": 0, "random_state": seed}
    library.build("algorithm", BasicVariantGenerator, algorithm.options, own)
    grids = math.prod(values.grid[2] for values in space.values() if isinstance(values, Grid))
    if grids > trials:
        raise InputError(f"the grid has {grids} points, but trials is {trials}; raise trials, or use choices")
    spec = {
        path: tune.grid_search(list(range(values.grid[2]))) if isinstance(values, Grid) else _domain(values)
        for path, values in space.items()
    }
    generator: Any = np.random.default_rng(seed)
    constant = bool(algorithm.options.get("constant_grid_search", False))
    settings: list[Setting] = []
    while len(settings) < trials:
        drawn = generate_variants({"config": spec}, constant_grid_search=constant, random_state=generator)
        settings += [_decoded(space, found["config"]) for _, found in drawn]
    return settings


def build_searcher(
    algorithm: LibraryPart,
    first: Setting,
    space: Mapping[str, Values],
    metrics: Sequence[str],
    seed: int,
    concurrent: int,
) -> "LibrarySearcher":
    """Return a searcher of Ray Tune that minimises the metrics, or the first one if it can minimise only one.

    Raise InputError if the searcher is not installed, does not accept an option, or cannot search the space.
    """
    cls = library.find("algorithm", algorithm.kind, SEARCH_ALG_IMPORT)
    own: dict[str, Any] = {
        "space": None,
        "metric": None,
        "mode": None,
        "points_to_evaluate": None,
        "evaluated_rewards": None,
    }
    own |= dict.fromkeys(SEEDS, seed) | {"max_concurrent": concurrent}
    searcher = library.build("algorithm", cls, algorithm.options, own)
    if algorithm.kind == "optuna":
        logging.getLogger("optuna").setLevel(logging.WARNING)
    several = len(metrics) > 1 and algorithm.kind == "optuna"
    target = (list(metrics), ["min"] * len(metrics)) if several else (metrics[0], "min")
    domains = {path: _domain(values) for path, values in space.items()}
    library.guarded("algorithm", lambda: searcher.set_search_properties(*target, domains))
    return LibrarySearcher(searcher, first, dict(space), tuple(metrics if several else metrics[:1]))


def _domain(values: Values) -> Any:
    """Return Tune's domain for the codes of these values."""
    match values:
        case Choices():
            return tune.choice([encode(values, value) for value in values.choices])
        case Grid():
            return tune.randint(0, values.grid[2])
        case Uniform():
            return tune.uniform(*values.uniform)
        case LogUniform():
            return tune.loguniform(*values.loguniform)
        case Integers():
            return tune.randint(values.integers[0], values.integers[1] + 1)


def _decoded(space: Mapping[str, Values], codes: Mapping[str, Any]) -> Setting:
    return {path: decode(values, _plain(codes[path])) for path, values in space.items()}


def _plain(code: Any) -> JsonValue:
    """Return a number of numpy as a number of Python."""
    return code.item() if isinstance(code, np.generic) else code


class NumberedSearcher(Searcher):
    """Base of the adapters: numbers the trials and collects their objectives."""

    kept: tuple[str, ...] = ("indices",)

    def __init__(self, objectives: tuple[str, ...]) -> None:
        super().__init__()
        self.objectives = objectives
        self.indices: dict[str, int] = {}  # Tune's trial id -> index of the trial

    def numbered(self, trial_id: str, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of a new trial."""
        self.indices[trial_id] = len(self.indices)
        return {"trial": self.indices[trial_id], **setting}

    def values(self, result: Mapping[str, Any] | None, error: bool) -> list[float] | None:
        """Return the objectives in a result; None if the trial failed or one of them is not finite."""
        if error or not result:
            return None
        values = [float(result.get(name, math.nan)) for name in self.objectives]
        return values if all(map(math.isfinite, values)) else None

    def save(self, checkpoint_path: str) -> None:
        """Write the searcher's state to a file."""
        Path(checkpoint_path).write_bytes(pickle.dumps({name: self.__dict__[name] for name in self.kept}))

    def restore(self, checkpoint_path: str) -> None:
        """Restore the searcher's state from a file."""
        self.__dict__ |= pickle.loads(Path(checkpoint_path).read_bytes())


class RoundSearcher(NumberedSearcher):
    """Adapter from a suggester to Tune's Searcher: a round starts when all trials of the previous round have ended.

    The suggestions therefore do not depend on the order in which the trials of a round end.
    """

    kept = ("indices", "suggester", "settings", "results")

    def __init__(self, suggester: Suggester, objectives: tuple[str, ...]) -> None:
        super().__init__(objectives)
        self.suggester = suggester
        self.settings: list[dict[str, Any]] = []
        self.results: dict[int, list[float] | None] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a new trial; None while trials of the current round run."""
        index = len(self.indices)
        if index == len(self.settings):
            if len(self.results) < index:
                return None
            suggested = self.suggester.suggest([self.results[earlier] for earlier in range(index)])
            if not suggested:
                return Searcher.FINISHED
            self.settings += suggested
        return self.numbered(trial_id, self.settings[index])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Store the objectives of a trial; a trial with an objective that is not finite counts as failed."""
        self.results[self.indices[trial_id]] = self.values(result, error)


class LibrarySearcher(NumberedSearcher):
    """Adapter around a searcher of Ray Tune: the first trial has the current settings, and values are coded.

    The searcher gets choices as JSON text and grid points as indices, because several of them accept only numbers and
    text. It gets no result whose objective is not finite: such a trial counts as failed.
    """

    def __init__(self, inner: Searcher, first: Setting, space: dict[str, Values], objectives: tuple[str, ...]) -> None:
        super().__init__(objectives)
        self.inner, self.first, self.space = inner, first, space

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a new trial; None if the searcher wants to wait."""
        if not self.indices:
            return self.numbered(trial_id, self.first)
        codes = self.inner.suggest(trial_id)
        if codes is None or codes == Searcher.FINISHED:
            return codes
        return self.numbered(trial_id, _decoded(self.space, codes))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a result of a running trial on."""
        if self.indices[trial_id] and self.values(result, False) is not None:
            self.inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the end of a trial on."""
        values = self.values(result, error)
        if self.indices[trial_id]:
            self.inner.on_trial_complete(trial_id, None if values is None else result, values is None)
        elif values is not None:
            self._teach(values)

    def _teach(self, values: Sequence[float]) -> None:
        """Tell the searcher the objective of the first trial, which it did not suggest, if it can learn from that."""
        inside = all(contains(self.space[path], value) for path, value in self.first.items())
        if not inside or len(values) > 1:
            return
        codes = {path: encode(self.space[path], value) for path, value in self.first.items()}
        with suppress(NotImplementedError):
            self.inner.add_evaluated_point(codes, values[0])

    def on_pause(self, trial_id: str) -> None:
        """Tell BOHB that its scheduler has paused a trial."""
        self.inner.on_pause(trial_id)  # type: ignore[attr-defined]

    def on_unpause(self, trial_id: str) -> None:
        """Tell BOHB that its scheduler has resumed a trial."""
        self.inner.on_unpause(trial_id)  # type: ignore[attr-defined]

    def save(self, checkpoint_path: str) -> None:
        """Write the state of this adapter and of the searcher to a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "searcher"
            self.inner.save(str(file))
            content = {"indices": self.indices, "inner": file.read_bytes()}
        Path(checkpoint_path).write_bytes(pickle.dumps(content))

    def restore(self, checkpoint_path: str) -> None:
        """Restore the state of this adapter and of the searcher from a file."""
        content = pickle.loads(Path(checkpoint_path).read_bytes())
        self.indices = content["indices"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "searcher"
            file.write_bytes(content["inner"])
            self.inner.restore(str(file))
