from typing import Any

import pytest

from components.foundation.config import parse, plain
from components.foundation.errors import InputError
from components.sampling.frame import SamplerConfig
from pipeline.tuning.sampler_search import SamplingSearch, changed, suggester
from pipeline.tuning.suggest import FixedList

SAMPLER = SamplerConfig(
    sets=4, flow_steps=5, solver="euler", order="motion_aware", temperature=6.5, temporal_scale=1.2, canvas_scale=1.5,
    guidance="constant", frame_noise=0.3, canvas_noise=0.2, noise_temperature=1.0, late_temperature=1.0,
)  # fmt: skip
SPACE: dict[str, Any] = {
    "temporal_scale": {"choices": [1.0, 1.2, 1.5]},
    "canvas_scale": {"choices": [1.0, 1.5]},
    "frame_noise": {"choices": [0.1, 0.3]},
}
RANGES: dict[str, Any] = {"canvas_scale": {"uniform": [1.0, 2.5]}, "sets": {"integers": [2, 6]}}


def search(**changes: Any) -> SamplingSearch:
    whole = {
        "kind": "sampling", "space": SPACE, "algorithm": "random", "trials": 6, "objectives": ["fvd"],
        "stopper": {"kind": "none"}, "clips": 8, "unseen": 0, "concurrent": 1, "seed": 0,
    }  # fmt: skip
    return parse(SamplingSearch, whole | changes, where="here")


def tried(**changes: Any) -> list[SamplerConfig]:
    found = suggester(SAMPLER, search(**changes))
    assert isinstance(found, FixedList)
    return [changed(SAMPLER, setting) for setting in found.suggest([])]


@pytest.mark.parametrize("changes", [{}, {"algorithm": "grid", "trials": 12}, {"space": RANGES}])
def test_the_sampler_as_it_stands_is_tried_first_and_nothing_twice(changes: dict[str, Any]) -> None:
    found = tried(**changes)
    assert found[0] == SAMPLER
    assert len(found) == len(set(found)) == search(**changes).trials


def test_settings_differ_from_the_sampler_in_the_space_alone() -> None:
    for candidate in tried():
        fixed = {"temporal_scale": 1.2, "canvas_scale": 1.5, "frame_noise": 0.3}
        assert candidate.model_copy(update=fixed) == SAMPLER


def test_a_grid_is_tried_as_a_whole_and_once_with_the_sampler_beside_it_where_that_is_no_point() -> None:
    assert len(tried(algorithm="grid", trials=100)) == 3 * 2 * 2
    space = SPACE | {"frame_noise": {"grid": [0.1, 0.2, 3]}}
    assert len(tried(algorithm="grid", trials=100, space=space)) == 3 * 2 * 3 + 1


def test_a_repeated_search_tries_the_same_and_a_longer_one_goes_on_from_there() -> None:
    for space in (SPACE, RANGES):
        assert tried(space=space) == tried(space=space)
        assert tried(space=space, trials=9)[:6] == tried(space=space)
        assert tried(space=space, seed=1) != tried(space=space)


def test_whole_numbers_and_words_may_vary_too() -> None:
    space = {"sets": {"choices": [2, 8]}, "order": {"choices": ["random", "greedy"]}}
    found = {(one.sets, one.order) for one in tried(space=space, trials=100)[1:]}
    assert found == {(2, "random"), (2, "greedy"), (8, "random"), (8, "greedy")}


def test_a_space_of_nothing_leaves_the_sampler_alone() -> None:
    assert tried(space={}, trials=1) == [SAMPLER]


def test_a_search_is_the_same_after_it_was_written_down() -> None:
    assert parse(SamplingSearch, plain(search(space=SPACE | RANGES)), where="here") == search(space=SPACE | RANGES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {"frame_nois": {"choices": [0.1]}}}, "the sampler has no setting frame_nois; choose one of sets,"),
        ({"space": {"frame_noise": {"choices": []}}}, "space.frame_noise.choices is"),
        ({"space": {"frame_noise": [0.1, 0.2]}}, "describe its values with one of choices, grid, uniform"),
        ({"space": {"frame_noise": {"normal": [0.1, 0.2]}}}, "describe its values with one of choices, grid, uniform"),
        ({"space": {"frame_noise": {"uniform": [0.2, 0.1]}}}, "the lower end of a range must be below the upper"),
        (
            {"space": {"frame_noise": {"uniform": [0.2, 1.5]}}},
            "frame_noise is 1.5: it must be at least 0 and at most 1",
        ),
        ({"space": {"order": {"choices": ["sideways"]}}}, "search.space: order is 'sideways'"),
        ({"space": {"sets": {"choices": [2.5]}}}, "search.space: sets is 2.5"),
        ({"space": {}}, "the search space is empty"),
        (
            {"space": RANGES, "algorithm": "grid"},
            "the algorithm grid cannot enumerate the continuous range of canvas_scale",
        ),
        ({"algorithm": "grid"}, "the grid has 12 points, but trials is 6"),
        ({"algorithm": "luck"}, "algorithm is 'luck'"),
        ({"objectives": ["fid"]}, "objectives.0 is 'fid': Input should be 'fvd' or 'milliseconds_per_frame'"),
        ({"objectives": []}, "objectives is"),
        ({"stopper": {"kind": "asha", "grace": 1, "factor": 2}}, "stopper.kind is 'asha'"),
        ({"trials": 0}, "trials is 0"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_a_search_that_cannot_be_made_is_told_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        suggester(SAMPLER, search(**change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
