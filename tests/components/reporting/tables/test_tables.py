import dataclasses

import pandas as pd
import pytest

from components.foundation.errors import InputError
from components.reporting import results
from components.reporting.tables import drift, tables, visible


@pytest.fixture
def evaluations(finished):
    return [results.read_evaluation(finished / row / "evaluation") for row in ("with-canvas", "no-canvas")]


def texts(line):
    return [cell.text for cell in line.cells]


def renumbered(evaluation, **numbers):
    first, *others = evaluation.scores
    return dataclasses.replace(evaluation, scores=(results.Score(first.name, first.metrics | numbers), *others))


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(1489.04, 0, "1\u202f489"), (21.4, 2, "21.40"), (-0.5, 1, "−0.5"), (None, 2, "–"), (float("nan"), 2, "–")],
)
def test_a_number_has_its_digits_and_a_missing_one_a_dash(value, digits, shown):
    assert tables.number(value, digits) == shown


def test_references_stand_once_and_after_the_models(evaluations):
    table = tables.score_table(evaluations)
    assert [line.cells[0].text for line in table.lines] == [
        "with-canvas",
        "no-canvas",
        "real against real",
        "copy last frame",
    ]
    assert [line.kind for line in table.lines] == ["model", "model", "reference", "reference"]
    assert [note.partition(":")[0] for note in table.notes] == ["real against real", "copy last frame"]


def test_the_best_of_the_models_is_marked_and_a_better_reference_is_not(evaluations):
    table = tables.score_table(evaluations)
    column = [cell.text for cell in table.heads].index("FVD")
    assert [line.cells[column].best for line in table.lines] == [True, False, False, False]
    assert table.lines[0].cells[column].detail == "641 to 735"


def test_one_model_alone_is_not_the_best_of_anything(evaluations):
    table = tables.score_table(evaluations[:1])
    assert not any(cell.best for line in table.lines for cell in line.cells)


def test_columns_that_nobody_measured_are_left_out_and_unknown_numbers_kept(evaluations):
    heads = [cell.text for cell in tables.score_table([renumbered(evaluations[0], kernel_distance=0.5)]).heads]
    assert "SSIM" not in heads
    assert "kernel distance" in heads
    assert not any("low" in head for head in heads)


def test_parameters_are_in_millions(evaluations):
    table = tables.score_table(evaluations)
    assert texts(table.lines[0])[[cell.text for cell in table.heads].index("size")] == "3.21"


def test_few_clips_are_said_to_be_few_with_the_measured_null(evaluations):
    (told, *_) = tables.verdicts(evaluations[:1])
    assert "64 clips are few" in told
    assert "two sets of real clips have an FVD of 340 here" in told
    alone = dataclasses.replace(evaluations[0], scores=tuple(one for one in evaluations[0].scores if not one.reference))
    assert "of 64 synthetic clips have an FVD of about 350 ± 32" in tables.verdicts([alone])[0]
    assert tables.verdicts([renumbered(evaluations[0], clips=8)])[0].startswith("8 clips are few")
    assert tables.verdicts([renumbered(evaluations[0], clips=512)]) == ()


def test_many_predictions_of_few_clips_are_still_few(evaluations):
    few = dataclasses.replace(renumbered(evaluations[0], clips=6400), protocol={"clips": 64, "samples": 100})
    assert tables.verdicts([few])[0].startswith("64 clips are few")


def test_overlapping_intervals_are_said_not_to_tell_models_apart(evaluations):
    first, second = (renumbered(evaluation, clips=2048) for evaluation in evaluations)
    overlapping = tables.verdicts([first, second])
    assert overlapping == ("The FVD intervals of with-canvas and no-canvas overlap: this evaluation cannot rank them.",)
    apart = renumbered(second, fvd_low=800.0, fvd_high=900.0)
    assert tables.verdicts([first, apart]) == ()


def test_unequal_protocols_do_not_stand_in_one_table(evaluations):
    other = dataclasses.replace(evaluations[1], protocol={"dataset": "kuka", "frames": 17})
    assert tables.by_protocol([evaluations[0], other]) == ((evaluations[0],), (other,))
    assert tables.by_protocol(evaluations) == (tuple(evaluations),)
    assert tables.protocol_line(other.protocol) == "dataset kuka · frames 17"
    assert tables.protocol_line({"frames": 17, "description": "17 frames at 64 x 64"}) == "17 frames at 64 x 64"


@pytest.mark.parametrize("table", [tables.score_table, drift.table])
def test_rows_of_unequal_protocol_or_data_are_refused_with_what_differs(evaluations, table):
    first, second = evaluations
    longer = dataclasses.replace(second, protocol=second.protocol | {"frames": 17})
    with pytest.raises(InputError, match=r"with-canvas and no-canvas cannot .* differ in frames \(9, 17\); score both"):
        table([first, longer])
    elsewhere = dataclasses.replace(second, protocol=second.protocol | {"clips_hash": "abc"})
    with pytest.raises(InputError, match=r"differ in clips_hash \(null, abc\)"):
        table([first, elsewhere])


def test_windows_stand_in_their_order_models_first_without_what_was_not_measured(evaluations):
    table = drift.table(evaluations)
    assert [cell.text for cell in table.heads] == ["row", "frames", "PSNR"]
    assert [texts(line) for line in table.lines][1:3] == [
        ["with-canvas", "5–8", "17.00"],
        ["no-canvas", "1–4", "21.00"],
    ]
    assert [line.kind for line in table.lines] == ["model"] * 4 + ["reference"] * 2
    assert drift.table([dataclasses.replace(evaluations[0], drift=())]) is None


def test_staticness_is_shown_bin_by_bin_and_not_for_rows_without_a_canvas(evaluations):
    first, second = evaluations
    table = tables.calibration_table([first, dataclasses.replace(second, calibration=None)])
    assert [texts(line) for line in table.lines] == [["with-canvas", "0.1–0.2", "640", "0.150", "0.275"]]
    assert tables.calibration_table([dataclasses.replace(second, calibration=None)]) is None


def test_trials_are_ranked_and_failed_ones_last(finished):
    table = tables.sweep_table(results.read_sweep(finished / "sweep"))
    assert [line.cells[0].text for line in table.lines] == ["t1", "t3", "t0", "t2"]
    assert [line.cells[0].detail for line in table.lines] == ["best", "", "", "failed"]
    assert [cell.text for cell in table.heads] == ["trial", "canvas scale", "temporal scale", "FVD", "time per frame"]


def test_trials_have_intervals_and_their_difference_to_the_rows_own_sampler(finished, builders):
    ends = {"fvd_low": [660.0, 600.0, None, 640.0], "fvd_high": [740.0, 700.0, None, 740.0]}
    differences = {
        "fvd_difference": [0.0, -50.0, None, -10.0],
        "fvd_difference_low": [0.0, -80.0, None, -30.0],
        "fvd_difference_high": [0.0, -20.0, None, 10.0],
    }
    builders["trials"](finished / "sweep", **ends, **differences)
    table = tables.sweep_table(results.read_sweep(finished / "sweep"))
    assert [cell.text for cell in table.heads][3:5] == ["FVD", "difference"]
    best, second, own, failed = (line.cells[3:5] for line in table.lines)
    assert [cell.detail for cell in best] == ["600.0 to 700.0", "−80.0 to −20.0"]
    assert [cell.text for cell in second] == ["690.0", "−10.0"]
    assert [cell.text for cell in own] == ["700.0", "0.0"]
    assert [cell.text for cell in failed] == ["–", "–"]


def test_trials_of_trainings_have_their_steps(finished, builders):
    builders["trials"](finished / "sweep", step=[280, 140, None, 70])
    table = tables.sweep_table(results.read_sweep(finished / "sweep"))
    assert table.heads[-1].text == "steps"
    assert [line.cells[-1].text for line in table.lines] == ["140", "70", "280", "–"]


def test_a_history_ends_with_the_last_number_of_each_kind():
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.5], "validation_loss": [1.75, None]})
    table = tables.history_table({"a": history, "b": history[["step"]]})
    assert [texts(line) for line in table.lines] == [["a", "2", "1.5", "1.75"], ["b", "2", "–", "–"]]


def test_losses_by_visible_tokens_stand_in_a_table_of_their_own_from_the_last_validation():
    names = [f"validation_flow_visible_{count:03d}" for count in (0, 8, 48)]
    history = pd.DataFrame({"step": [1, 2, 3], "loss": 1.0} | {name: [2.0, 1.5, None] for name in names})
    history[names[2]] = [1.0, 0.25, None]
    table = visible.table({"a": history, "b": history[["step", "loss"]]})
    assert table is not None
    assert [cell.text for cell in table.heads] == ["flow loss", "0", "8", "48"]
    assert [texts(line) for line in table.lines] == [["a", "1.5", "1.5", "0.25"]]
    assert visible.table({"b": history[["step", "loss"]]}) is None
    assert [cell.text for cell in tables.history_table({"a": history}).heads] == ["row", "step", "loss"]


def test_reasons_are_counted():
    rejected = pd.DataFrame({"split": "train", "video": list("abc"), "reason": ["short", "broken", "short"]})
    assert [texts(line) for line in tables.reason_table(rejected).lines] == [["short", "2"], ["broken", "1"]]
