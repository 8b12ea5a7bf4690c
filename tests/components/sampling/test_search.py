import itertools
from typing import Any

import pytest

from components.config import parse
from components.errors import InputError
from components.sampling.frame import SamplerConfig
from components.sampling.search import SearchConfig, settings, varied

SAMPLER = SamplerConfig(
    sets=4, flow_steps=5, solver="euler", order="motion_aware", temperature=6.5, temporal_scale=1.2, canvas_scale=1.5,
    guidance="constant", frame_noise=0.3, canvas_noise=0.2, late_temperature=1.0,
)  # fmt: skip
SPACE: dict[str, list[float]] = {
    "temporal_scale": [1.0, 1.2, 1.5],
    "canvas_scale": [1.0, 1.5],
    "frame_noise": [0.1, 0.3],
}


def search(**changes: Any) -> SearchConfig:
    whole = {"space": SPACE, "trials": 6, "clips": 8, "concurrent": 1, "seed": 0}
    return parse(SearchConfig, whole | changes, where="here")


def test_the_sampler_as_it_stands_is_tried_first() -> None:
    assert settings(SAMPLER, search())[0] == SAMPLER


def test_as_many_settings_are_tried_as_asked_for_and_none_twice() -> None:
    chosen = settings(SAMPLER, search())
    assert len(chosen) == 6
    assert all(a != b for a, b in itertools.combinations(chosen, 2))


def test_settings_differ_from_the_sampler_in_the_space_alone() -> None:
    for candidate in settings(SAMPLER, search())[1:]:
        for name, values in SPACE.items():
            assert getattr(candidate, name) in values
        fixed = {"temporal_scale": 1.2, "canvas_scale": 1.5, "frame_noise": 0.3}
        assert candidate.model_copy(update=fixed) == SAMPLER


def test_a_small_grid_is_tried_as_a_whole_and_once() -> None:
    chosen = settings(SAMPLER, search(trials=100))
    assert len(chosen) == 3 * 2 * 2  # the sampler is itself a point of the grid
    outside = SAMPLER.model_copy(update={"frame_noise": 0.25})
    assert len(settings(outside, search(trials=100))) == 3 * 2 * 2 + 1


def test_a_repeated_search_tries_the_same_and_a_longer_one_goes_on_from_there() -> None:
    assert settings(SAMPLER, search()) == settings(SAMPLER, search())
    assert settings(SAMPLER, search(trials=9))[:6] == settings(SAMPLER, search())
    assert settings(SAMPLER, search(seed=1)) != settings(SAMPLER, search())


def test_whole_numbers_and_words_may_vary_too() -> None:
    space = {"sets": [2, 8], "order": ["random", "greedy"]}
    tried = {(one.sets, one.order) for one in settings(SAMPLER, search(space=space, trials=100))[1:]}
    assert tried == {(2, "random"), (2, "greedy"), (8, "random"), (8, "greedy")}


def test_a_space_of_nothing_leaves_the_sampler_alone() -> None:
    assert settings(SAMPLER, search(space={})) == [SAMPLER]


def test_what_is_varied_is_told_by_name() -> None:
    assert varied(SAMPLER, search()) == {"temporal_scale": 1.2, "canvas_scale": 1.5, "frame_noise": 0.3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {"frame_noise": []}}, "search.space.frame_noise is empty"),
        ({"space": {"frame_noise": [1.5]}}, "sampler.frame_noise is 1.5"),
        ({"space": {"order": ["sideways"]}}, "search.space: order is 'sideways'"),
        ({"space": {"sets": [2.5]}}, "search.space: sets is 2.5"),
        ({"trials": 0}, "trials and concurrent must be at least 1"),
        ({"concurrent": 0}, "trials and concurrent must be at least 1"),
        ({"clips": 1}, "clips at least 2"),
    ],
)
def test_a_search_that_cannot_be_made_is_told_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        settings(SAMPLER, search(**change))


def test_only_what_a_search_can_vary_may_be_varied() -> None:
    with pytest.raises(InputError, match="seed"):
        search(space={"seed": [4, 8]})
