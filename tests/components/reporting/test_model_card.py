import pytest

from components.reporting import model_card, results


@pytest.fixture
def text(finished):
    return model_card.card(
        "Video prediction on arm",
        [results.read_evaluation(finished / row / "evaluation") for row in ("with-canvas", "no-canvas")],
        {"arm": results.read_videos(finished / "clips")},
        {"arm": "simulated by this pipeline."},
        {"machine": {"cpus": 2}},
    )


def test_the_card_says_what_whereof_what_for_how_good_and_where_it_ends(text):
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["Models", "Data and licences", "Intended use", "Scores", "Limits", "What was run"]
    assert (
        "- **with-canvas**, 3.21 M parameters, 41.2 ms per frame on the machine of the evaluation; sampled with sets 4"
        in text
    )
    assert "- **arm**: simulated by this pipeline. 643 videos, 1 rejected; clips: 1536 train, 64 val, 64 test." in text
    assert "64 clips are few for FVD" in text
    assert "with-canvas is not comparable" in text


def test_every_line_of_the_table_has_as_many_cells_as_its_head(text):
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert rows[2].startswith("| with-canvas | 688 (641 to 735)")


def test_a_model_that_does_no_better_than_a_held_frame_or_freezes_is_said_to(finished, builders):
    builders["scores"](finished / "bad", "bad", fvd=1500.0, frozen=0.25)
    evaluation = results.read_evaluation(finished / "bad")
    said = model_card.card("x", [evaluation], {}, {}, {})
    assert "By FVD, bad is no better than repeating the last context frame." in said
    assert "25% of the predictions of bad stop moving." in said
