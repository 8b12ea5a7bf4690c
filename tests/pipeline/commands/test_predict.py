"""The command `predict`: its output files, and its errors for unusable files and options."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from components.foundation.errors import InputError
from components.video import video
from pipeline.commands import predict
from tests.pipeline.untrained import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untrained"))


def options(folder, **changes):
    values = {"video": folder / "videos", "row": "kuka-canvasmar", "start": 0.25, "context": 3, "frames": 4}
    values |= {
        "futures": 2,
        "seeds": [0],
        "settings": ["sets=2"],
        "device": "cpu",
        "words": None,
        "actions": None,
        "out": None,
        "scale": None,
    }
    return predict.Options(**values | changes)


def test_a_folder_gives_films_strips_and_times_and_a_bad_file_in_it_is_skipped(folder, capsys):
    (folder / "videos" / "bad.mp4").write_text("no video")
    predict.run(options(folder), folder)
    out = folder / "predictions" / "kuka-canvasmar"
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}{ending}" for name in ("one", "two") for ending in (".mp4", ".gif", ".png", "-panels.mp4")),
        "timing.json",
    }
    assert video.read(out / "one.mp4", (256, 512)).sizes == ((256, 512),)  # two futures side by side, enlarged
    assert len(video.read(out / "one.gif", (256, 512)).frames) == 3 + 4
    panels = video.read(out / "one-panels.mp4", (294, 1048))  # truth, canvas, order, prediction, below their names
    assert panels.sizes == ((294, 1048),)
    frames = video.fit(video.read(folder / "videos" / "one.mp4", (32, 32)).frames, (32, 32))[2:9]
    assert (panels.frames[:, :, 26:282:8, 4:256:8].float() - frames.float()).abs().mean() < 4  # context, then truth
    assert (panels.frames[:3, :, 26:282:8, 268:520:8].float() - frames[:3].float()).abs().mean() < 4
    bar = panels.frames[:, 2, 288].float().mean(1)  # blue, where the prediction has begun
    assert bar[3] > bar[2] + 5
    assert Image.open(out / "one.png").height > 5 * 96  # five lanes at least
    timing = json.loads((out / "timing.json").read_text())
    one = timing["predictions"][0]
    assert one["first_frame"] == 2
    assert (one["name"], one["sampler"]["sets"], len(one["frame_ms"])) == ("one", 2, 4)
    assert 0 < one["first_frame_ms"] <= one["total_ms"]
    assert one["frames_per_second"] == pytest.approx(8000 / one["total_ms"])
    assert list(timing["failed"]) == [str(folder / "videos" / "bad.mp4")]
    assert "bad.mp4 is not a video" in capsys.readouterr().err


def test_truth_that_ends_early_is_black_and_none_is_left_out():
    frames = torch.full((5, 3, 32, 32), 200, dtype=torch.uint8)
    from pipeline.commands.predict import PredictedVideo, to_gallery, to_panels
    from pipeline.commands.video_predictor import Context, Step

    maps = torch.zeros(1, 4, 4)
    steps = [Step(index, frames[:1], None, maps, maps.long()) for index in range(3)]
    prediction = PredictedVideo("x", Context(frames[:1], (), 0), frames[:2], steps, {})
    shown = {panel.name: panel.present.tolist() for panel in to_panels(prediction)}
    assert shown == {"truth": [True, True, True, False], "order": [True] * 4, "prediction": [True] * 4}
    no_truth = PredictedVideo("x", prediction.context, frames[:0], steps, {})
    assert [panel.name for panel in to_panels(no_truth)] == ["order", "prediction"]
    film = predict.galleries.filmstrip(to_gallery(prediction), 0, truth_frames=2)
    lanes = {lane.name: lane.present.tolist() for lane in film.lanes}
    assert lanes["context | truth"] == [True, True, True, False]
    assert lanes["error"] == [False, True, True, False]
    film = predict.galleries.filmstrip(to_gallery(no_truth), 0, truth_frames=0)
    assert [lane.name for lane in film.lanes] == ["context", "order", "sample"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": ["sets"]}, "--set sets is not NAME=VALUE"),
        ({"settings": ["sets=[1"]}, "is not a valid value"),
        ({"settings": ["steps=3"]}, "unknown key steps"),
        ({"row": "other"}, "row 'other' is not trained"),
        ({"context": 30}, "has 18 frames from 0.25 s on, but the context is 30; lower it, or start earlier"),
        ({"start": 99.0}, "lasts 2.5 s, so it has no frame at 99 s; start earlier"),
        ({"frames": 0}, "frames is 0"),
        ({"device": "teapot"}, "torch cannot use the device teapot"),
        ({"out": Path(__file__)}, "the output folder .* is a file"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(folder, changes, words):
    one = options(folder, **{"video": folder / "videos" / "one.mp4"} | changes)
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        predict.run(one, folder)


def names_of(folder, *files, seeds=(0,)):
    """The names of the outputs of files in a new folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    found, others = predict.find_videos(folder)
    names = predict.name_outputs(found, folder, seeds)
    outputs = [file.lower() for name in names for file in predict.output_files(name, seeds)]
    assert len(names) == len(found)
    assert len(set(outputs)) == len(outputs) == 4 * len(found) * len(seeds)
    return {str(file.relative_to(folder)): name for name, file in names.items()}, others


def test_videos_of_one_name_are_told_apart_and_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="holds no video files"):
        predict.find_videos(tmp_path)
    names, others = names_of(tmp_path, "x.mp4", "a/x.mp4", "a/y.MP4", "notes.txt", ".b.mp4")
    assert names == {"a/x.mp4": "a-x.mp4", "x.mp4": "x.mp4", "a/y.MP4": "y"}
    assert others == {"notes.txt": "ends in .txt, as no video does", ".b.mp4": "is hidden"}


@pytest.mark.parametrize(
    ("files", "seeds"),
    [
        (("a-b/c.mp4", "a/b/c.mp4"), (0,)),
        (("clip.mp4", "clip-panels.mp4"), (0,)),
        (("clip.mp4", "a/Clip.mp4"), (0,)),
        (("clip.mp4", "clip.avi", "clip-2.mp4"), (0,)),
        (("clip.mp4", "clip-seed1.mp4", "clip-seed1-panels.mov"), (0, 1)),
        ((f"{'x' * 249}.mp4", f"{'x' * 249}.avi"), (0, 1)),
        (("\udcff.mp4", "\\xff.mp4"), (0,)),
    ],
)
def test_every_video_has_outputs_of_its_own(tmp_path, files, seeds):
    names_of(tmp_path, *files, seeds=seeds)


def test_videos_whose_outputs_would_have_one_name_are_all_predicted(folder, tmp_path):
    for name in ("a-b/c.mp4", "a/b/c.mp4", "clip.mp4", "clip-panels.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "videos" / "one.mp4", tmp_path / "videos" / name)
    out = tmp_path / "out"
    predict.run(options(folder, video=tmp_path / "videos", out=out, frames=1, futures=1, seeds=[3, 3]), folder)
    timing = json.loads((out / "timing.json").read_text())
    assert len({one["video"] for one in timing["predictions"]}) == 4
    assert len(list(out.iterdir())) == 4 * 4 + 1


def test_a_video_is_never_overwritten(folder, tmp_path):
    given = shutil.copy(folder / "videos" / "one.mp4", tmp_path / "one.mp4")
    before = given.read_bytes()
    with pytest.raises(InputError, match=r"a prediction would overwrite .*one\.mp4; choose another folder with --out"):
        predict.run(options(folder, video=given, out=tmp_path), folder)
    assert given.read_bytes() == before
    assert list(tmp_path.iterdir()) == [given]


def test_a_video_is_continued_from_its_end_unless_a_start_is_given(folder, tmp_path, capsys):
    file = folder / "videos" / "one.mp4"
    predict.run(options(folder, video=file, start=None, context=None, futures=1, out=tmp_path), folder)
    assert f"{file}: cropped from 48 x 40 to 40 x 40, resized to 32 x 32, 8 frames a second" in capsys.readouterr().out
    (one,) = json.loads((tmp_path / "timing.json").read_text())["predictions"]
    assert one["first_frame"] == 15
    assert one["input"].endswith("context: the last 5 frames, 1.88 to 2.38 s")
    made = video.read(tmp_path / "one.mp4", (256, 256)).frames[:5, :, 4::8, 4::8]
    end = video.read(file, (32, 32)).frames[-5:]
    assert (made.float() - end.float()).abs().mean() < 4
    panels = video.read(tmp_path / "one-panels.mp4", (294, 784))
    assert panels.sizes == ((294, 784),)  # canvas, order and prediction: there is no truth after the end


def test_pictures_are_enlarged_as_often_as_the_user_says(folder, tmp_path):
    file = folder / "videos" / "one.mp4"
    predict.run(options(folder, video=file, futures=1, scale=2, out=tmp_path), folder)
    assert video.read(tmp_path / "one.mp4", (64, 64)).sizes == ((64, 64),)
    assert Image.open(tmp_path / "one.gif").size == (64, 64)
    small = Image.open(tmp_path / "one.png").size
    predict.run(options(folder, video=file, futures=1, scale=4, out=tmp_path), folder)
    assert Image.open(tmp_path / "one.png").width > 1.5 * small[0]


def test_a_video_unlike_those_of_the_training_is_told_and_predicted(folder, tmp_path, capsys, monkeypatch):
    file = folder / "videos" / "one.mp4"
    monkeypatch.setattr(predict.VideoPredictor, "unlike", lambda self, context: "looks unlike")
    predict.run(options(folder, video=file, out=tmp_path), folder)
    assert f"{file} looks unlike" in capsys.readouterr().err
    assert json.loads((tmp_path / "timing.json").read_text())["predictions"][0]["warning"] == "looks unlike"


def test_a_row_without_an_example_asks_for_a_video(folder):
    with pytest.raises(InputError, match=r"kuka-canvasmar has no example video in .*; name a video"):
        predict.run(options(folder, video=None), folder)
