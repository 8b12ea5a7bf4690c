import json

import numpy as np
import pytest

from components.foundation.errors import InputError
from components.pictures import records
from components.reporting import results


def test_a_finished_run_reads_back(finished):
    evaluation = results.read_evaluation(finished / "with-canvas" / "evaluation")
    assert [score.reference for score in evaluation.scores] == [False, True, True]
    assert evaluation.scores[0].metrics["fvd"] == 688.4
    assert evaluation.milliseconds_per_frame == 41.2
    gallery = records.read_gallery(finished / "with-canvas" / "evaluation")
    assert gallery.names == ("a.mp4@0", "b.mp4@13")
    assert records.read_gallery(finished / "no-canvas" / "evaluation").canvas is None
    assert list(results.read_history(finished / "with-canvas" / "training")["step"]) == [20, 40, 60]
    sweep = results.read_sweep(finished / "sweep")
    assert (sweep.parameters, sweep.best) == (("canvas_scale", "temporal_scale"), "t1")
    videos = results.read_videos(finished / "clips")
    assert (videos.videos, videos.clips["train"], len(videos.rejected)) == (643, 1536, 1)
    assert records.read_reconstructions(finished / "vae").names == ("clip 0", "clip 1")


def test_numbers_that_were_not_measured_are_absent(finished):
    evaluation = results.read_evaluation(finished / "with-canvas" / "evaluation")
    assert "psnr" not in evaluation.scores[1].metrics


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (results.read_evaluation, "scores.json"),
        (records.read_gallery, "gallery.safetensors"),
        (records.read_reconstructions, "reconstructions.safetensors"),
        (results.read_history, "history.csv"),
        (results.read_sweep, "trials.csv"),
        (results.read_videos, "manifest.json"),
    ],
)
def test_a_missing_or_damaged_file_is_named_in_one_sentence(tmp_path, read, file):
    with pytest.raises(InputError, match=rf"{file} does not exist; run `dvc repro`"):
        read(tmp_path)
    for damage in (b"", b"\x00\xff{{{"):
        (tmp_path / file).write_bytes(damage)
        with pytest.raises(InputError, match=rf"{file}.*run `dvc repro`"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "must hold a mapping"),
        ({"row": "x"}, "does not have the format of scores.json"),
        ({"row": "x", "protocol": {}, "sampler": {}, "scores": [{"fvd": 1.0}]}, "does not have the format"),
        (
            {"row": "x", "protocol": {}, "sampler": {}, "scores": [{"name": "m", "fvd": "low"}]},
            "does not have the format",
        ),
        (
            {
                "row": "x",
                "protocol": {},
                "sampler": {},
                "scores": [{"name": "truth"}],
                "drift": [],
                "calibration": None,
            },
            "has scores of reference rows only",
        ),
    ],
)
def test_scores_of_another_form_are_refused(tmp_path, content, told):
    (tmp_path / "scores.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=told):
        results.read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"sample": np.zeros((2, 7, 3, 16, 16), np.uint8)}, "sample has shape .* but truth has"),
        ({"sample": None}, "holds no tensor sample"),
        ({"truth": np.zeros((2, 8, 3, 16, 16), np.float32)}, "truth must be uint8 frames"),
        ({"context": np.zeros((1, 1, 3, 16, 16), np.uint8)}, "context .* does not fit truth"),
        ({"canvas": np.zeros((2, 4, 3, 8, 8), np.uint8)}, "canvas .* does not fit truth"),
        ({"order": np.zeros((2, 4, 4), np.int32)}, r"order has shape .* not \(2, t, h, w\)"),
        ({"names": ("one",)}, "holds 2 clips but 1 names"),
    ],
)
def test_a_gallery_whose_parts_disagree_is_refused(tmp_path, builders, odd, told):
    builders["gallery"](tmp_path, **odd)
    with pytest.raises(InputError, match=told):
        records.read_gallery(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("loss\n1\n", "has no column step or no rows"),
        ("step,loss\n", "has no column step or no rows"),
        ("step,loss\n1,low\n", "the column loss holds"),
    ],
)
def test_a_history_without_steps_or_with_words_is_refused(tmp_path, text, told):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        results.read_history(tmp_path)


def test_a_search_without_a_scored_trial_is_refused(tmp_path, builders):
    builders["trials"](tmp_path, fvd=[None] * 4)
    with pytest.raises(InputError, match="has no trial with a score"):
        results.read_sweep(tmp_path)
