import dataclasses

import pytest

from components.reporting import results
from components.reporting.tables import verdict


@pytest.fixture
def pair(finished):
    return [results.read_evaluation(finished / row / "evaluation") for row in ("with-canvas", "no-canvas")]


def changed(evaluation, name, **numbers):
    """The same with other numbers in one of its lines."""
    scores = tuple(
        dataclasses.replace(score, metrics=score.metrics | numbers) if score.name == name else score
        for score in evaluation.scores
    )
    return dataclasses.replace(evaluation, scores=scores)


def test_the_best_comes_first_and_intervals_that_are_apart_are_said_to_be(pair):
    apart = changed(pair[1], "no-canvas", fvd_low=800.0, fvd_high=900.0)
    assert verdict.sentences([apart, pair[0]])[0] == (
        "with-canvas has an FVD of 688 (641 to 735), the lowest of 2 models; next is no-canvas with 860 (800 to 900); "
        "their intervals do not overlap."
    )
    told = " ".join(verdict.sentences(pair))
    assert "do not overlap" not in told
    assert "cannot rank them" in told


@pytest.mark.parametrize(
    ("fvd", "low", "said"),
    [
        (1489.0, 1450.0, "clearly better than repeating the last context frame, which scores 1\u202f489"),
        (700.0, 650.0, "but the intervals overlap"),
        (500.0, 450.0, "No model beats repeating the last context frame, which scores 500 (450 to 550)"),
    ],
)
def test_a_model_is_measured_by_what_a_held_frame_reaches(pair, fvd, low, said):
    held = changed(pair[0], verdict.COPY_LAST_FRAME, fvd=fvd, fvd_low=low, fvd_high=2 * fvd - low)
    assert any(said in text for text in verdict.sentences([held]))


def test_what_the_vae_costs_is_said_where_it_was_measured_and_the_papers_table_is_not_mixed_in(pair):
    assert not any("The VAE reconstruction" in text for text in verdict.sentences(pair))
    again = results.Score("VAE reconstruction", {"fvd": 410.0})
    both = dataclasses.replace(pair[0], scores=(*pair[0].scores, again))
    told = verdict.sentences([both])
    expected = "has an FVD of 410, and two sets of real clips have 340 (310 to 370): no model"
    assert any(expected in text for text in told)
    assert "Do not compare these numbers with the paper's" in told[-1]
