import dataclasses

import pytest

from components.reporting import results
from components.reporting.tables import paper

PROTOCOL = {
    paper.BAIR: paper.BAIR.protocol | {"start": "first", "clips_hash": "0123"},
    paper.KINETICS: paper.KINETICS.protocol | {"clips_hash": "0123"},
}


@pytest.fixture
def evaluation(finished):
    return results.read_evaluation(finished / "with-canvas" / "evaluation")


@pytest.mark.parametrize("published", paper.PUBLISHED, ids=lambda one: one.title)
def test_the_papers_own_protocol_is_comparable_and_any_other_choice_is_not(evaluation, published):
    own = dataclasses.replace(evaluation, protocol=PROTOCOL[published])
    assert "comparable if the clips (hash 0123)" in paper.verdict(published, own)
    assert [line.cells[0].detail for line in paper.table(published, [own]).lines][-1] == "ours"
    for key in published.protocol:
        other = dataclasses.replace(own, protocol=own.protocol | {key: "another"})
        said = paper.verdict(published, other)
        assert said.startswith(f"with-canvas is not comparable: {key.replace('_', ' ')} another instead of")
        assert said.count("instead of") == 1


def test_our_number_stands_in_the_column_of_its_kind_of_starts(evaluation):
    standard = dataclasses.replace(evaluation, protocol=PROTOCOL[paper.BAIR])
    debiased = dataclasses.replace(evaluation, protocol=PROTOCOL[paper.BAIR] | {"start": "random"})
    *_, first, second = paper.table(paper.BAIR, [standard, debiased]).lines
    assert [cell.text for cell in first.cells] == ["with-canvas", "688.4", "–"]
    assert [cell.text for cell in second.cells] == ["with-canvas", "–", "688.4"]


def test_a_table_without_debiased_scores_holds_random_starts_in_its_only_column(evaluation):
    own = dataclasses.replace(evaluation, protocol=PROTOCOL[paper.KINETICS])
    assert own.protocol["start"] == "random"
    assert [cell.text for cell in paper.table(paper.KINETICS, [own]).lines[-1].cells] == ["with-canvas", "688.4"]


def test_the_papers_own_rows_stand_as_they_were_printed():
    last = {table: [row for row in table.rows if row[0].startswith("CanvasMAR")] for table in paper.PUBLISHED}
    assert [row[1:] for row in last[paper.KINETICS]] == [("6.3",), ("6.3",), ("6.2",)]
    assert [row[1:] for row in last[paper.BAIR]] == [("66.0", "26.6"), ("65.3", "26.5"), ("65.2", "26.4")]
