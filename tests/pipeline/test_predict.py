"""What `predict` leaves behind, and what it says of files that are no use."""

import argparse
import json

import pytest
import torch
from PIL import Image

from components.data import video
from components.errors import InputError
from pipeline import predict
from tests.pipeline.untrained import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untrained"))


def given(folder, **changes):
    values = {"video": folder / "videos", "row": "kuka-canvasmar", "start": 2, "context": 3, "frames": 4}
    values |= {"futures": 2, "seed": [0], "settings": ["sets=2"], "device": "cpu", "words": None, "out": None}
    return argparse.Namespace(**values | changes)


def test_a_folder_gives_films_strips_and_times_and_a_bad_file_in_it_is_passed_over(folder, capsys):
    (folder / "videos" / "bad.mp4").write_text("no video")
    predict.run(given(folder), folder)
    out = folder / "predictions" / "kuka-canvasmar"
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}{ending}" for name in ("one", "two") for ending in (".mp4", ".gif", ".png", "-panels.mp4")),
        "timing.json",
    }
    assert video.read(out / "one.mp4", (256, 512)).sizes == ((256, 512),)  # two futures side by side, enlarged
    assert len(video.read(out / "one.gif", (256, 512)).frames) == 3 + 4
    panels = video.read(out / "one-panels.mp4", (256, 1024))  # truth, canvas, order, prediction
    truth = video.fit(video.read(folder / "videos" / "one.mp4", (32, 32)).frames, (32, 32))[5:9]
    assert (panels.frames[:, :, ::8, 4:256:8].float() - truth.float()).abs().mean() < 4
    assert Image.open(out / "one.png").height > 5 * 96  # five lanes at least
    timing = json.loads((out / "timing.json").read_text())
    one = timing["predictions"][0]
    assert (one["name"], one["sampler"]["sets"], len(one["frame_ms"])) == ("one", 2, 4)
    assert 0 < one["first_frame_ms"] <= one["total_ms"]
    assert one["frames_per_second"] == pytest.approx(8000 / one["total_ms"])
    assert list(timing["failed"]) == [str(folder / "videos" / "bad.mp4")]
    assert "bad.mp4 is not a video" in capsys.readouterr().err


def test_truth_that_ends_early_is_black_and_none_is_left_out():
    frames = torch.full((5, 3, 32, 32), 200, dtype=torch.uint8)
    from pipeline.predict import Made, look, panels
    from pipeline.video_predictor import Given, Step

    maps = torch.zeros(1, 4, 4)
    steps = [Step(index, frames[:1], None, maps, maps.long()) for index in range(3)]
    made = Made("x", Given(frames[:1], ()), frames[:2], steps, {})
    assert panels(made).shape == (3, 3, 32, 96)
    assert panels(made)[2, :, :, :32].max() == 0
    assert panels(Made("x", made.given, frames[:0], steps, {})).shape == (3, 3, 32, 64)
    lanes = {lane.name: lane.present.tolist() for lane in predict.galleries.film(look(made), 0, known=2).lanes}
    assert lanes["context | truth"] == [True, True, True, False]
    assert lanes["error"] == [False, True, True, False]
    blind = predict.galleries.film(look(Made("x", made.given, frames[:0], steps, {})), 0, known=0)
    assert [lane.name for lane in blind.lanes] == ["context", "order", "sample"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": ["sets"]}, "--set sets is not NAME=VALUE"),
        ({"settings": ["sets=[1"]}, "is no value"),
        ({"settings": ["steps=3"]}, "unknown key steps"),
        ({"row": "other"}, "no experiment 'other'"),
        ({"context": 30}, "has 20 frames, so 30 from frame 2 on cannot be given"),
        ({"frames": 0}, "frames is 0"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(folder, changes, words):
    one = given(folder, **{"video": folder / "videos" / "one.mp4"} | changes)
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        predict.run(one, folder)


def test_videos_of_one_name_are_told_apart_and_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="holds no video files"):
        predict.named(tmp_path)
    for name in ("x.mp4", "a/x.mp4", "a/y.MP4", "notes.txt"):
        (tmp_path / name).touch()
    assert sorted(predict.named(tmp_path)) == ["a-x.mp4", "x.mp4", "y"]
