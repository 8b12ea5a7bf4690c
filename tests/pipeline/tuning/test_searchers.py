"""The adapters between search algorithms and Ray Tune, without a cluster."""

import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from components.foundation.config import parse
from components.foundation.errors import InputError
from pipeline.tuning.ray_tune.algorithms import build_suggester
from pipeline.tuning.ray_tune.searchers import LibrarySearcher, RoundSearcher, variants
from pipeline.tuning.sampler_search import SamplingSearch
from pipeline.tuning.suggest import LibraryPart, Optuna

SPACE: dict[str, Any] = {
    "canvas_scale": {"uniform": [1.0, 2.0]}, "temperature": {"loguniform": [0.1, 10.0]},
    "flow_steps": {"integers": [2, 4]}, "frame_noise": {"grid": [0.0, 0.4, 3]},
    "solver": {"choices": ["euler", "adams_bashforth"]},
}  # fmt: skip
FIRST: dict[str, Any] = {
    "canvas_scale": 1.0, "temperature": 6.5, "flow_steps": 3, "frame_noise": 0.0, "solver": "euler"
}  # fmt: skip


def search(**change: Any) -> SamplingSearch:
    content = {
        "kind": "sampling", "space": SPACE, "algorithm": {"kind": "optuna"}, "trials": 8, "objectives": ["fvd"],
        "stopper": {"kind": "none"}, "clips": 8, "unseen": 0, "concurrent": 1, "seed": 3, "keep": False,
    }  # fmt: skip
    return parse(SamplingSearch, content | change, where="searches.tried")


def found(searcher: Searcher, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Suggestions of a searcher, each of which gets a score."""
    configs = []
    for number in range(start, start + count):
        config = searcher.suggest(f"t{number}")
        configs.append(config)
        searcher.on_trial_complete(f"t{number}", {"fvd": config["canvas_scale"] ** 2, "gigaflops_per_frame": 1.0})
    return configs


def inside(config: dict[str, Any]) -> bool:
    listed = all(config[path] in (values.values() or [config[path]]) for path, values in search().space.items())
    return listed and 1.0 <= config["canvas_scale"] <= 2.0 and 0.1 <= config["temperature"] <= 10.0


@pytest.mark.parametrize("objectives", [["fvd"], ["fvd", "milliseconds_per_frame"]])
def test_the_librarys_optuna_begins_with_the_current_settings_and_stays_in_the_space(objectives: list[str]) -> None:
    metrics = ["fvd", "gigaflops_per_frame"][: len(objectives)]
    searchers = [build_suggester(FIRST, search(objectives=objectives), metrics) for _ in range(2)]
    first, again = (found(searcher, 8) for searcher in searchers)
    assert first == again
    assert first[0] == {"trial": 0, **FIRST}
    assert [config["trial"] for config in first] == list(range(8))
    assert all(map(inside, first))
    assert len({config["canvas_scale"] for config in first}) == 8


@pytest.mark.parametrize("algorithm", [{"kind": "optuna"}, {"kind": "hyperopt", "n_initial_points": 3, "gamma": 0.3}])
def test_a_library_searcher_goes_on_from_its_saved_state(algorithm: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip(algorithm["kind"])
    whole, part, rest = (build_suggester(FIRST, search(algorithm=algorithm), ["fvd"]) for _ in range(3))
    expected = found(whole, 8)
    assert found(part, 5) == expected[:5]
    part.save(str(tmp_path / "state"))
    rest.restore(str(tmp_path / "state"))
    assert found(rest, 3, 5) == expected[5:]


def test_a_round_searcher_goes_on_from_its_saved_state(tmp_path: Path) -> None:
    whole, part, rest = (
        RoundSearcher(Optuna(FIRST, search().space, 1, trials=8, round_size=1, seed=0), ("fvd",)) for _ in range(3)
    )
    expected = found(whole, 8)
    assert found(part, 5) == expected[:5]
    part.save(str(tmp_path / "state"))
    rest.restore(str(tmp_path / "state"))
    assert found(rest, 3, 5) == expected[5:]
    assert whole.suggest("last") == Searcher.FINISHED


class Listening(Searcher):
    """A searcher that only writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return {"canvas_scale": 1.5}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.heard.append(("result", trial_id, result["fvd"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.heard.append(("end", trial_id, result and result["fvd"], error))

    def add_evaluated_point(self, parameters: dict[str, Any], value: float, *_: Any, **__: Any) -> None:
        self.heard.append(("point", parameters, value))


def test_a_library_searcher_hears_of_scores_and_failures_and_never_of_nan() -> None:
    inner, space = Listening(), {"canvas_scale": search().space["canvas_scale"]}
    searcher = LibrarySearcher(inner, {"canvas_scale": 1.2}, space, ("fvd",))
    for number in range(4):
        searcher.suggest(f"t{number}")
    searcher.on_trial_result("t0", {"fvd": 8.0})
    searcher.on_trial_result("t1", {"fvd": math.nan})
    searcher.on_trial_result("t1", {"fvd": 7.0})
    searcher.on_trial_complete("t0", {"fvd": 6.0})
    searcher.on_trial_complete("t1", {"fvd": 5.0})
    searcher.on_trial_complete("t2", {"fvd": math.nan})
    searcher.on_trial_complete("t3", None, error=True)
    assert inner.heard == [
        ("result", "t1", 7.0), ("point", {"canvas_scale": 1.2}, 6.0), ("end", "t1", 5.0, False),
        ("end", "t2", None, True), ("end", "t3", None, True),
    ]  # fmt: skip


def test_the_variant_generator_crosses_grids_and_draws_the_rest() -> None:
    algorithm = parse(LibraryPart, {"kind": "variant_generator", "constant_grid_search": True}, where="algorithm")
    points = variants(algorithm, search().space, 6, 0)
    assert points == variants(algorithm, search().space, 6, 0)
    assert points != variants(algorithm, search().space, 6, 1)
    assert [point["frame_noise"] for point in points] == [0.0, 0.2, 0.4] * 2
    assert [point["canvas_scale"] for point in points] == [points[0]["canvas_scale"]] * 3 + [
        points[3]["canvas_scale"]
    ] * 3
    assert all(map(inside, points))
    built = build_suggester(FIRST, search(algorithm={"kind": "variant_generator"}, trials=4), ["fvd"])
    assert built.settings[0] == FIRST
    assert len(built.settings) == 4
    with pytest.raises(InputError, match="the grid has 3 points, but trials is 2"):
        build_suggester(FIRST, search(algorithm={"kind": "variant_generator"}, trials=2), ["fvd"])
