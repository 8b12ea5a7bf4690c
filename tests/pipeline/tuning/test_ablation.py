from typing import Any

import pytest

from components.foundation.config import parse, plain
from components.foundation.errors import InputError
from components.sampling.frame import SamplerConfig
from pipeline.tuning.ablation import AblationConfig, points

SAMPLER = SamplerConfig(
    sets=4, flow_steps=5, solver="euler", order="motion_aware", temperature=6.5, temporal_scale=1.2, canvas_scale=1.5,
    guidance="constant", frame_noise=0.3, canvas_noise=0.2, noise_temperature=1.0, late_temperature=1.0,
)  # fmt: skip
PLAIN = {"experiment": "without", "space": {"sets": [2, 4]}, "against": None}
CANVAS = {
    "experiment": "with",
    "space": {"order": ["random", "greedy"], "sets": [2]},
    "against": "plain",
}


def ablation(**arms: dict[str, Any]) -> AblationConfig:
    content = {
        "dataset": "d", "autoencoder": "a", "experiment": "with", "baseline": "without", "sampler": "one",
        "protocol": "p", "along": "sets", "concurrent": 1, "arms": arms,
    }  # fmt: skip
    return parse(AblationConfig, content, where="here")


def test_every_combination_of_an_arms_settings_is_a_point_and_nothing_else_changes() -> None:
    found = points(ablation(plain=PLAIN, canvas=CANVAS), SAMPLER)
    told = [(point.arm, point.experiment, point.sampler.order, point.sampler.sets) for point in found]
    assert told == [
        ("plain", "without", "motion_aware", 2),
        ("plain", "without", "motion_aware", 4),
        ("canvas", "with", "random", 2),
        ("canvas", "with", "greedy", 2),
    ]
    fixed = plain(SAMPLER).items() - {("sets", 4), ("order", "motion_aware")}
    assert all(fixed <= plain(point.sampler).items() for point in found)


def test_points_are_compared_one_by_one_or_all_with_a_single_one() -> None:
    found = points(ablation(plain=PLAIN, canvas=CANVAS), SAMPLER)
    assert [point.against for point in found] == [None, None, 0, 1]
    found = points(ablation(plain=PLAIN | {"space": {}}, canvas=CANVAS), SAMPLER)
    assert [point.against for point in found] == [None, 0, 0]


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({}, "at least one arm"),
        ({"a": PLAIN | {"experiment": "third"}}, "arms.a.experiment is 'third', .* choose with or without"),
        ({"a": PLAIN | {"space": {"sets": []}}}, r"arms.a.space has a setting without values"),
        ({"a": PLAIN | {"space": {"frame_noise": [2.0]}}}, "frame_noise is 2.0"),
        ({"a": PLAIN | {"against": "b"}}, r"arms.a.against is 'b', .* name an earlier arm"),
        ({"plain": PLAIN | {"space": {"sets": [2, 4, 8]}}, "a": CANVAS}, "has 2 points, but .* 'plain', which has 3"),
    ],
)
def test_arms_that_cannot_be_sampled_or_compared_are_told_in_one_sentence(arms: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        points(ablation(**arms), SAMPLER)
