"""The split of each video by lists, folders and hashes; a split that was asked for is never empty without a word."""

import unicodedata
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.sources import sources
from tests.components.sources.test_sources import LISTS, fill, folder_config, found


def write_lists(folder: Path, train: str | bytes, val: str | bytes, test: str | bytes) -> None:
    (folder / "lists").mkdir(exist_ok=True)
    for name, text in {"train": train, "val": val, "test": test}.items():
        content = text if isinstance(text, bytes) else text.encode()
        (folder / "lists" / f"{name}.txt").write_bytes(content)


def test_lists_give_each_video_its_split_and_tell_what_is_missing_and_what_is_not_listed(tmp_path):
    fill(tmp_path, "a b.mp4", "deep/ü.mp4", "c.mp4", "d.mp4")
    write_lists(tmp_path, "a b.mp4\r\n\r\ngone.mp4\r\n", "deep/ü.mp4\n", "c.mp4")
    assert found(tmp_path, LISTS) == [("train", "a b.mp4"), ("val", "deep/ü.mp4"), ("test", "c.mp4")]
    collection = sources.find(folder_config(tmp_path, LISTS))
    assert [(told.split, told.video, told.reason) for told in collection.missing] == [
        ("train", "gone.mp4", "is in line 3 of lists/train.txt, but is no video of the folder")
    ]
    assert [told.video for told in collection.left_out] == ["d.mp4"]
    assert not collection.complete
    (tmp_path / "gone.mp4").touch()
    assert sources.find(folder_config(tmp_path, LISTS)).complete


def test_a_video_in_two_lists_and_a_missing_list_are_refused(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    write_lists(tmp_path, "a.mp4\nb.mp4", "c.mp4", "./B.MP4")
    with pytest.raises(InputError, match=r"b\.mp4 is listed for train and for test"):
        found(tmp_path, LISTS)
    (tmp_path / "lists/val.txt").unlink()
    with pytest.raises(InputError, match=r"the list .*val\.txt does not exist; add it"):
        found(tmp_path, LISTS)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.mp4", "a.mp4 3"),
        ("run 7.mp4", "run 7.mp4"),
        ("a.mp4", "./a.mp4"),
        ("deep/a.mp4", "deep\\a.mp4"),
        ("deep/a.mp4", "deep//a.mp4"),
        ("a.mp4", "\ufeffa.mp4"),
        ("a.mp4", "a.mp4".encode("utf-16")),
        (unicodedata.normalize("NFC", "é.mp4"), unicodedata.normalize("NFD", "é.mp4")),
        (unicodedata.normalize("NFD", "é.mp4"), unicodedata.normalize("NFC", "é.mp4")),
        ("deep/a.mp4", "{folder}/deep/a.mp4"),
        ("a.mp4", "a.mp4 \t\r\n"),
        ("a.MP4", "a.mp4"),
        ("a.mp4", "a.MP4"),
        ("a\u2028b.mp4", "a\u2028b.mp4"),
    ],
)
def test_a_line_names_its_video_however_it_is_written(tmp_path, name, line):
    fill(tmp_path, "t.mp4", "v.mp4", name)
    text = line.format(folder=tmp_path) if isinstance(line, str) else line
    write_lists(tmp_path, "t.mp4", "v.mp4", text)
    assert len(sources.find(folder_config(tmp_path, LISTS)).videos) == 3


def test_a_line_that_could_mean_two_videos_means_none(tmp_path):
    fill(tmp_path, "t.mp4", "v.mp4", "a.mp4", "A.mp4")
    write_lists(tmp_path, "t.mp4", "v.mp4", "a.mp4")
    assert ("test", "a.mp4") in found(tmp_path, LISTS)
    write_lists(tmp_path, "t.mp4", "v.mp4", "a.MP4")
    with pytest.raises(InputError, match=r"no line of the list .*test\.txt names a video"):
        found(tmp_path, LISTS)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_list_that_finds_nothing_is_refused_with_its_line_and_what_that_is_compared_with(tmp_path, split):
    fill(tmp_path, "deep/a.mp4", "b.mp4", "c.mp4")
    lists = {"train": "deep/a.mp4", "val": "b.mp4", "test": "c.mp4"}
    write_lists(tmp_path, **lists | {split: "\na.mp4 3\n"})
    with pytest.raises(InputError) as refused:
        found(tmp_path, LISTS)
    for part in (f"lists/{split}.txt", f"the split {split} is empty", "line 2 is 'a.mp4 3'", "such as deep/a.mp4"):
        assert part in str(refused.value)
    write_lists(tmp_path, **lists | {split: "\n"})
    with pytest.raises(InputError, match=f"the list .*{split}.txt is empty, so the split {split} has no video"):
        found(tmp_path, LISTS)


def test_a_list_in_another_encoding_is_refused(tmp_path):
    fill(tmp_path, "ü.mp4")
    write_lists(tmp_path, "ü.mp4".encode("latin-1"), "", "")
    with pytest.raises(InputError, match=r"the list .*train\.txt cannot be read .* replace it with a UTF-8 text file"):
        found(tmp_path, LISTS)


def test_a_share_and_a_folder_without_a_video_are_refused(tmp_path):
    fill(tmp_path, "a.mp4", "lab/notes.txt")
    with pytest.raises(InputError, match=r"none of the 1 videos in .* is assigned to val, whose share is 0\.001"):
        found(tmp_path, {"kind": "hash", "val": 0.001, "test": 0.0})
    with pytest.raises(InputError, match="lists the folder 'lab', but there is no video in"):
        found(tmp_path, {"kind": "folders", "val": ["lab"], "test": []})
    fill(tmp_path / "pool", "b.mp4")
    (tmp_path / "linked").symlink_to(tmp_path / "pool")
    with pytest.raises(InputError, match="linked is a link to the folder"):
        found(tmp_path, {"kind": "folders", "val": ["linked"], "test": []})
