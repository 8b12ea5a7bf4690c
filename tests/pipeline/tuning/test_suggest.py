import pickle
from typing import Any

import pytest

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from pipeline.tuning.ray_tune.algorithms import build_suggester
from pipeline.tuning.search_space import Space, changed, current_values
from pipeline.tuning.suggest import Optuna, Results, SearchSettings, Suggester


class Spaced(Config):
    space: Space


def space(**values: Any) -> Any:
    return parse(Spaced, {"space": values}, where="here").space


WIDE = {
    "x": {"uniform": [-1.0, 1.0]},
    "n": {"integers": [1, 9]},
    "word": {"choices": ["a", "b", [1, 2]]},
    "rate": {"loguniform": [1e-4, 1e-1]},
    "even": {"grid": [0.0, 1.0, 5]},
}
FIRST = {"x": 0.5, "n": 2, "word": "a", "rate": 1e-3, "even": 0.25}


def optuna(trials: int = 13, **changes: Any) -> Optuna:
    return Optuna(FIRST, space(**WIDE), 1, **({"trials": trials, "round_size": 2, "seed": 0} | changes))


def play(suggester: Suggester, *, fail: int = -1, forget: bool = False) -> list[dict[str, Any]]:
    """A whole search for small x; `forget`: as if every round were proposed by another process."""
    settings: list[dict[str, Any]] = []
    results: list[list[float] | None] = []
    while suggested := suggester.suggest(results):
        settings += suggested
        for setting in suggested:
            results.append(None if len(results) == fail else [abs(float(setting["x"]))])
        if forget:
            suggester = pickle.loads(pickle.dumps(suggester))
    return settings


def test_optuna_tries_what_is_there_first_and_as_much_as_it_may() -> None:
    settings = play(optuna())
    assert settings[0] == FIRST
    assert len(settings) == 13
    assert all(len([one for one in settings if one == other]) == 1 for other in settings)
    assert all(-1 <= one["x"] <= 1 and one["even"] in (0, 0.25, 0.5, 0.75, 1.0) for one in settings)


def test_optuna_learns_what_it_is_told() -> None:
    settings = play(optuna(trials=40))
    early, late = ([abs(one["x"]) for one in part] for part in (settings[1:10], settings[-10:]))
    assert sum(late) / len(late) < sum(early) / len(early)


@pytest.mark.parametrize("fail", [-1, 0, 5])
def test_a_repeated_search_and_one_that_was_interrupted_after_every_round_try_the_same(fail: int) -> None:
    assert play(optuna(), fail=fail) == play(optuna(), fail=fail) == play(optuna(), fail=fail, forget=True)


def test_optuna_ends_where_there_is_nothing_new() -> None:
    few = Optuna({"n": 1}, space(n={"integers": [1, 3]}), 1, trials=9, round_size=2, seed=0)
    results: Results = []
    settings: list[Any] = []
    while suggested := few.suggest(results):
        settings += suggested
        results = [[0.0]] * len(settings)
    assert sorted(one["n"] for one in settings) == [1, 2, 3]


def test_a_round_is_as_long_as_trials_go_on_together() -> None:
    suggester, lengths = optuna(trials=7, round_size=3), []
    results: Results = []
    while suggested := suggester.suggest(results):
        lengths.append(len(suggested))
        results = [*results, *([1.0] for _ in suggested)]
    assert lengths == [3, 3, 1]


def test_several_objectives_are_told_together() -> None:
    content = {"space": {"n": {"integers": [1, 30]}}, "algorithm": "optuna", "trials": 8, "objectives": ("a", "b")}
    search = parse(SearchSettings, content | {"concurrent": 1, "seed": 0}, where="here")
    found = build_suggester({"n": 1}, search, ["a", "b"])
    results: list[list[float] | None] = []
    while suggested := found.suggest(results):
        results += [[float(one["n"]), -float(one["n"])] for one in suggested]
    assert len(results) == 8


def test_nested_tables_name_paths_and_a_mapping_is_laid_over_what_stands_there() -> None:
    content = {"model": {"canvas": {"weight": 1, "noise": [0, 1]}, "width": 8, "deep": {"width": 8, "layers": 2}}}
    where = space(
        model={
            "canvas": {"weight": {"choices": [2]}, "noise": {"choices": [[0, 2]]}},
            "deep": {"choices": [{"width": 4}]},
        }
    )
    assert list(where) == ["model.canvas.weight", "model.canvas.noise", "model.deep"]
    assert current_values(content, where, "it") == {
        "model.canvas.weight": 1, "model.canvas.noise": [0, 1], "model.deep": {"width": 8},
    }  # fmt: skip
    result = changed(content, {"model.canvas.noise": [0, 2], "model.deep": {"width": 4}}, "it")
    assert result["model"]["canvas"] == {"weight": 1, "noise": [0, 2]}
    assert result["model"]["deep"] == {"width": 4, "layers": 2}
    assert content["model"]["deep"] == {"width": 8, "layers": 2}
    with pytest.raises(InputError, match=r"it has no setting model\.canvas\.wait; choose one of weight, noise"):
        changed(content, {"model.canvas.wait": 1}, "it")
    with pytest.raises(InputError, match=r"it: model\.deep has no setting depth; choose one of width, layers"):
        changed(content, {"model.deep": {"depth": 1}}, "it")
