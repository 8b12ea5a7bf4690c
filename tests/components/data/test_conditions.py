"""Captions and labels of clips: read, matched with the videos, cached under a key, refused where they do not fit."""

import pytest
import torch

from components.data import conditions
from components.data.conditions import ConditionKey, Conditions, Labels
from components.errors import InputError

VIDEOS = {"train": ["a.mp4", "a.mp4", "b.mp4"], "val": ["c.mp4"], "test": []}
KEY = ConditionKey(clips="c1", words="w1", encoder="e1", settings={})


def table(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_clip_gets_the_label_of_its_video_and_the_cache_gives_it_back(tmp_path):
    path = table(tmp_path, 'video,label\na.mp4,push\nb.mp4,"lift, then drop"\nc.mp4,push\n')
    words = conditions.read_words(path, "label", ["a.mp4", "b.mp4", "c.mp4"])
    told = conditions.write(tmp_path / "out", VIDEOS, words, Labels(["push", "lift, then drop"]), KEY)
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,caption\na.mp4,x\nb.mp4,y\nc.mp4,z\n", "has a caption for c.mp4, which is no video here"),
        ("video,caption\na.mp4,x\n", "has no caption for b.mp4; add a line"),
        ("video,caption\na.mp4,x\na.mp4,y\nb.mp4,z\n", "names a.mp4 twice"),
        ("video,label\na.mp4,x\nb.mp4,y\n", "is no csv with the columns video and caption"),
    ],
)
def test_captions_without_videos_and_the_reverse_are_told_in_one_sentence(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        conditions.read_words(table(tmp_path, text), "caption", ["a.mp4", "b.mp4"])


def test_a_missing_file_an_unknown_label_and_a_class_named_twice_are_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        conditions.read_words(tmp_path / "none.csv", "caption", [])
    with pytest.raises(InputError, match="unknown label 'pull'; the classes are push, lift"):
        Labels(["push", "lift"])(["push", "pull"])
    with pytest.raises(InputError, match="named twice"):
        Labels(["push", "push"])


def test_the_videos_of_clips_are_those_of_their_list(tmp_path):
    (tmp_path / "clips.csv").write_text(
        "clip,split,shard,row,video,first_frame\n0,train,0,0,x/a.mp4,0\n1,val,0,0,b.mp4,13\n", encoding="utf-8"
    )
    assert conditions.videos_of(tmp_path) == {"train": ["x/a.mp4"], "val": ["b.mp4"], "test": []}
    assert torch.equal(Labels(["a", "b"])(["b"]), torch.tensor([[[0.0, 1.0]]]))
