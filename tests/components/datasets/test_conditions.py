"""Captions and labels of clips: read, matched with the videos, cached under a key, refused where they do not fit."""

import pytest

from components.datasets import captions, conditions
from components.datasets.conditions import ConditionKey, Conditions, Encoder, Labels
from components.foundation.errors import InputError

WORDS = {"train": ["push", "push", "lift, then drop"], "val": ["push"], "test": []}
KEY = ConditionKey(annotations="w1", encoder="e1")


def table(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_clip_gets_the_label_of_its_video_and_the_cache_gives_it_back(tmp_path):
    path = table(tmp_path, 'video,label\na.mp4,push\nb.mp4,"lift, then drop"\nspare.mp4,push\n')
    assert captions.read(path, {"a.mp4", "b.mp4"}, {"spare.mp4", "other.mp4"})["b.mp4"] == "lift, then drop"
    encode = Labels(["push", "lift, then drop"])
    assert isinstance(encode, Encoder)
    told = conditions.write(tmp_path / "out", WORDS, encode, KEY)
    assert told == {"conditions_train": 3, "conditions_val": 1, "conditions_test": 0}
    opened = Conditions.open(tmp_path / "out", "train", KEY)
    assert opened.read([2, 0]).tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]
    opened.verify()
    with pytest.raises(InputError, match=r"conditions in .* are stale, made with encoder 'e1' instead of 'e2'"):
        Conditions.open(tmp_path / "out", "train", KEY.model_copy(update={"encoder": "e2"}))
    shard = tmp_path / "out" / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is damaged"):
        Conditions.open(tmp_path / "out", "train", KEY).read([0])


def test_the_words_of_clips_are_kept_in_their_order_and_verified(tmp_path):
    files = captions.write(tmp_path, {"train": ["push", 'a "robot",\nthen\rleft'], "test": [""]})
    assert captions.of(tmp_path, files) == {"train": ("push", 'a "robot",\nthen\rleft'), "val": (), "test": ("",)}
    assert captions.of(tmp_path, {}) is None
    (tmp_path / captions.FILE).write_text("split,clip,words\n")
    with pytest.raises(InputError, match="differs from its manifest"):
        captions.of(tmp_path, files)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("video,caption\na.mp4,x\nb.mp4,y\nc.mp4,z\n", "has a caption for c.mp4, but the data set has no such video"),
        ("video,caption\na.mp4,x\n", "has no caption for b.mp4; add a line"),
        ("video,caption\na.mp4,x\na.mp4,y\nb.mp4,z\n", "names a.mp4 twice"),
        ("video,words\na.mp4,x\nb.mp4,y\n", "needs the columns video and caption, or video and label"),
        ("video,caption,label\na.mp4,x,z\nb.mp4,y,z\n", "needs the columns video and caption, or video and label"),
        ("", "needs the columns video and caption, or video and label"),
        ("video;caption\na.mp4;x\n", "separate the values by commas, not by semicolons"),
        ("video,caption\na.mp4,x, y\nb.mp4,z\n", "line 2 has 3 values for the 2 columns video,caption; put each value"),
        ("video,caption\na.mp4,x\n./a.MP4,y\nb.mp4,z\n", "names a.mp4 twice, the second time in line 3"),
        ("video,caption\na.mp4,x\nb.mp4, \n", "line 3: the caption of b.mp4 is blank; write one"),
        ("video,label\na.mp4,x\nz/b.mp4,y\n", "add the video or remove its line .*folder, such as b.mp4"),
    ],
)
def test_words_without_videos_and_the_reverse_are_told_in_one_sentence(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        captions.read(table(tmp_path, text), {"a.mp4", "b.mp4"}, set())


def test_a_video_is_found_however_the_csv_names_it(tmp_path):
    path = table(tmp_path, "\ufeffvideo,caption\r\n.\\\\a.MP4 ,x\r\nb.mp4,y\r\n".replace("\\\\", "\\"))
    assert captions.read(path, {"a.mp4", "b.mp4"}, set()) == {"a.mp4": "x", "b.mp4": "y"}


def test_a_missing_file_an_unknown_label_and_a_class_named_twice_are_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        captions.read(tmp_path / "none.csv", set(), set())
    with pytest.raises(InputError, match="unknown label 'pull'; the classes are push, lift: correct"):
        Labels(["push", "lift"])(["push", "pull"])
    with pytest.raises(InputError, match="unknown label ''"):
        Labels(["push", "lift"])([""])
    with pytest.raises(InputError, match="listed twice"):
        Labels(["push", "push"])
