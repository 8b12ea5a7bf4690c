"""Schedulers and searchers of Ray Tune by kind: what they refuse before the first trial, and what they get from us."""

from typing import Any

import pytest
from ray.tune.schedulers import SCHEDULER_IMPORT, HyperBandScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search import SEARCH_ALG_IMPORT

from components.foundation.config import parse, plain
from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.tuning.ray_tune import library
from pipeline.tuning.ray_tune.algorithms import build_suggester
from pipeline.tuning.ray_tune.schedulers import Clip, build_scheduler, check
from pipeline.tuning.search_space import Uniform
from pipeline.tuning.suggest import FixedList
from pipeline.tuning.training_search import Candidate, TrainingSearch, suggester
from tests.pipeline.conftest import ROOT

SPACE = {"recipe": {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "batch": {"choices": [1, 2]}}}
FIRST = {"recipe.learning_rate": 1e-3, "recipe.batch": 2}


def search(**change: Any) -> TrainingSearch:
    content = {
        "kind": "training", "space": SPACE, "algorithm": "random", "trials": 4, "objectives": ["validation_flow"],
        "stopper": {"kind": "none"}, "steps": 8, "report_every": 2, "concurrent": 1, "seed": 0, "keep": False,
    }  # fmt: skip
    return parse(TrainingSearch, content | change, where="searches.tried")


def scheduler(**stopper: Any) -> Any:
    searched = search(stopper=stopper)
    return build_scheduler(searched.stopper, "validation_flow", searched.steps, searched.space)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stopper": {"kind": "luck"}}, "stopper.kind is 'luck'; choose one of none, asha, fifo"),
        (
            {"stopper": {"kind": "pbt", "colour": 1}},
            "stopper has no option colour; choose one of perturbation_interval",
        ),
        ({"stopper": {"kind": "pbt", "metric": "x"}}, "stopper has no option metric"),
        ({"stopper": {"kind": "pbt", "synch": 1}}, "stopper.synch is 1: Input should be a valid boolean"),
        ({"stopper": {"kind": "pbt", "perturbation_interval": -1}}, "must be a positive number"),
        ({"stopper": {"kind": "async_hyperband", "grace_period": 9}}, "grace_period must be <= max_t"),
        ({"stopper": {"kind": "pbt_replay"}}, "policy_file"),
        ({"stopper": {"perturbation_interval": 2}}, "it lacks the key kind"),
        ({"stopper": {"kind": "pbt"}, "algorithm": "optuna"}, "needs all first settings at the start"),
        ({"stopper": {"kind": "hb_bohb"}}, "stopper hb_bohb and algorithm bohb work only together"),
        ({"algorithm": {"kind": "luck"}}, "algorithm.kind is 'luck'; choose one of variant_generator, random, ax"),
        ({"algorithm": {"kind": "optuna", "seed": 1}}, "algorithm has no option seed; choose one of study_name"),
        (
            {"algorithm": {"kind": "optuna", "study_name": 1}},
            "algorithm.study_name is 1: Input should be a valid string",
        ),
        ({"algorithm": {"kind": "random", "max_concurrent": 1}}, "choose one of constant_grid_search"),
        ({"algorithm": {"study_name": "a"}}, "it lacks the key kind"),
        ({"algorithm": 3}, "use grid, random, optuna, or a table"),
        ({"objectives": []}, "objectives is"),
        (
            {"space": {"model": {"head": {"choices": [{"width": 64, "layers": 2}]}}}, "stopper": {"kind": "pbt"}},
            "search.space varies model.head, which changes the weights of the model",
        ),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_sentence(change: dict[str, Any], words: str) -> None:
    tables = presets.read(ROOT / "presets" / "default.yaml")
    current = {"model": tables["models"]["canvas"], "recipe": tables["recipes"]["model"]}
    with pytest.raises(InputError) as caught:
        suggester(parse(Candidate, current, where="current"), search(**change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_without_objectives_names_the_missing_key() -> None:
    content = {key: value for key, value in plain(search()).items() if key != "objectives"}
    with pytest.raises(InputError, match="missing key objectives; add it"):
        parse(TrainingSearch, content, where="searches.tried")


def test_a_searcher_that_is_not_installed_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.search.hyperopt import hyperopt_search

    monkeypatch.setattr(hyperopt_search, "hpo", None)
    with pytest.raises(InputError) as caught:
        build_suggester(FIRST, search(algorithm={"kind": "hyperopt", "gamma": 0.3}), ["validation_flow"])
    assert "run `pip install hyperopt`" in str(caught.value)


def test_every_kind_of_the_library_is_found() -> None:
    for table in (SCHEDULER_IMPORT, SEARCH_ALG_IMPORT):
        assert all(isinstance(library.find("here", kind, table), type) for kind in table)


def test_options_reach_the_scheduler_and_its_time_is_steps() -> None:
    halving, median = (
        scheduler(kind="hyperband", reduction_factor=2),
        scheduler(kind="median_stopping_rule", grace_period=4),
    )
    assert isinstance(halving, HyperBandScheduler)
    assert (halving._eta, halving._max_t_attr, halving._time_attr, halving._metric) == (2, 8, "step", "validation_flow")
    assert isinstance(median, MedianStoppingRule)
    assert (median._grace_period, median._time_attr, median._mode) == (4, "step", "min")


def test_a_population_mutates_the_settings_of_the_space_within_their_ranges() -> None:
    population = scheduler(kind="pbt", perturbation_interval=2, perturbation_factors=[1.5, 0.5])
    assert isinstance(population, PopulationBasedTraining)
    assert population._hyperparam_mutations["recipe.batch"] == [1, 2]
    assert population._hyperparam_mutations["recipe.learning_rate"].lower == 1e-4
    assert population._perturbation_factors == (1.5, 0.5)
    clip = Clip({"x": Uniform(uniform=(0.0, 1.0))})
    assert [clip({"trial": 1, "x": value})["x"] for value in (-1, 0.4, 3)] == [0.0, 0.4, 1.0]


def test_a_number_that_a_population_cannot_scale_is_told() -> None:
    searched = search(stopper={"kind": "pbt"})
    with pytest.raises(InputError, match=r"the current recipe.learning_rate is None"):
        check(scheduler(kind="pbt"), FixedList([]), FIRST | {"recipe.learning_rate": None}, searched)


def test_searches_of_earlier_versions_are_still_read_and_keep_nothing() -> None:
    content = {key: value for key, value in plain(search()).items() if key != "keep"}
    assert parse(TrainingSearch, content, where="old") == search()
    for stopper in ({"kind": "asha", "grace": 2, "factor": 2}, {"kind": "pbt", "perturbation_factors": [1.5, 0.5]}):
        for algorithm in ("grid", {"kind": "optuna", "study_name": "a"}):
            searched = search(stopper=stopper, algorithm=algorithm)
            assert parse(TrainingSearch, plain(searched), where="again") == searched
