from pathlib import Path

import pytest

from components import config
from components.data import sources
from components.data.sources import FolderConfig
from components.errors import InputError

CUT = {"frames": 17, "stride": 1, "step": 17, "resolution": [8, 8], "shard": 4, "max_rejected": 0.0, "words": None}
NAMED = {"kind": "named"}


def folder_config(folder: Path, split: dict[str, object], **changes: object) -> FolderConfig:
    data = {"kind": "folder", "path": str(folder), "split": split, **CUT, **changes}
    return config.parse(FolderConfig, data, where="test")


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path, split: dict[str, object]) -> list[tuple[str, str]]:
    return [(source.split, source.name) for source in sources.find(folder_config(folder, split)).videos]


def left_out(folder: Path, split: dict[str, object]) -> dict[str, str]:
    return {finding.video: finding.reason for finding in sources.find(folder_config(folder, split)).left_out}


def test_named_folders_are_the_splits_and_videos_come_sorted(tmp_path):
    fill(tmp_path, "train/b.mp4", "train/a/z.AVI", "val/c.mp4", "test/d.mkv", "elsewhere/e.mp4", "f.mp4")
    assert left_out(tmp_path, NAMED) == dict.fromkeys(("elsewhere/e.mp4", "f.mp4"), "is in no split")
    assert found(tmp_path, NAMED) == [
        ("train", "train/a/z.AVI"),
        ("train", "train/b.mp4"),
        ("val", "val/c.mp4"),
        ("test", "test/d.mkv"),
    ]


def test_only_video_files_in_sight_are_taken(tmp_path):
    fill(tmp_path, "train/a.mp4", "train/a.txt", "train/._a.mp4", "train/.cache/b.mp4", "val/mp4", "test/a.jpg")
    assert found(tmp_path, NAMED) == [("train", "train/a.mp4")]


def test_listed_folders_go_to_val_and_test_and_the_rest_to_train(tmp_path):
    fill(tmp_path, "lab1/a.mp4", "lab2/deep/b.mp4", "lab3/c.mp4", "lone.mp4", "lab11/d.mp4")
    split = {"kind": "folders", "val": ["lab1"], "test": ["lab2"]}
    assert found(tmp_path, split) == [
        ("train", "lab11/d.mp4"),
        ("train", "lab3/c.mp4"),
        ("train", "lone.mp4"),
        ("val", "lab1/a.mp4"),
        ("test", "lab2/deep/b.mp4"),
    ]


def test_hashed_shares_are_near_what_was_asked_and_blind_to_the_rest_of_the_folder(tmp_path):
    fill(tmp_path, *(f"{number:04d}.mp4" for number in range(600)))
    split = {"kind": "hash", "val": 0.1, "test": 0.2}
    before = {name: part for part, name in found(tmp_path, split)}
    shares = {part: list(before.values()).count(part) / 600 for part in ("train", "val", "test")}
    assert abs(shares["val"] - 0.1) < 0.04
    assert abs(shares["test"] - 0.2) < 0.05
    for number in range(0, 600, 2):
        (tmp_path / f"{number:04d}.mp4").unlink()
    fill(tmp_path, "new.mp4")
    after = {name: part for part, name in found(tmp_path, split)}
    assert all(before[name] == part for name, part in after.items() if name != "new.mp4")


def test_loops_of_links_are_entered_once(tmp_path):
    fill(tmp_path, "train/a.mp4", "val/b.mp4", "test/c.mp4", "train/deep/d.mp4")
    (tmp_path / "train/deep/up").symlink_to(tmp_path / "train")
    (tmp_path / "val/root").symlink_to(tmp_path)
    (tmp_path / "test/self.mp4").symlink_to(tmp_path / "test/self.mp4")
    names = [name for _, name in found(tmp_path, NAMED)]
    assert names == ["train/a.mp4", "train/deep/d.mp4", "val/b.mp4", "test/c.mp4", "test/self.mp4"]
    told = left_out(tmp_path, NAMED)
    assert set(told) == {"train/deep/up", "val/root"}
    assert set(told.values()) == {"is a link to a folder that is read already and was not entered again"}


def test_linked_folders_are_followed(tmp_path):
    fill(tmp_path / "pool", "a.mp4")
    fill(tmp_path / "set", "val/b.mp4", "test/c.mp4")
    (tmp_path / "set/train").symlink_to(tmp_path / "pool")
    assert ("train", "train/a.mp4") in found(tmp_path / "set", NAMED)


def test_a_file_linked_twice_counts_once_in_a_split_and_never_in_two(tmp_path):
    fill(tmp_path, "train/a.mp4", "val/b.mp4", "test/c.mp4")
    (tmp_path / "train/again.mp4").symlink_to(tmp_path / "train/a.mp4")
    assert [name for _, name in found(tmp_path, NAMED)] == ["train/a.mp4", "val/b.mp4", "test/c.mp4"]
    assert left_out(tmp_path, NAMED) == {"train/again.mp4": "is the same file as train/a.mp4"}
    (tmp_path / "test/leak.mp4").symlink_to(tmp_path / "train/a.mp4")
    with pytest.raises(InputError, match=r"test/leak\.mp4 and train/a\.mp4 .* same file, in the splits test and train"):
        found(tmp_path, NAMED)
    assert len(found(tmp_path, {"kind": "hash", "val": 0.0, "test": 0.4})) == 3


def test_a_name_that_is_no_text_still_has_a_name(tmp_path):
    fill(tmp_path, "train/\udcff.mp4", "val/b.mp4", "test/ü ö.mp4")
    assert [name for _, name in found(tmp_path, NAMED)] == ["train/\\xff.mp4", "val/b.mp4", "test/ü ö.mp4"]


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="absent does not exist; correct the data set's path"):
        found(tmp_path / "absent", NAMED)
    with pytest.raises(InputError, match="is a file, not a folder"):
        found(fill(tmp_path, "film.mp4") / "film.mp4", NAMED)
    fill(tmp_path, "videos/notes.txt")
    with pytest.raises(InputError, match=r"holds no videos; files that end in .*\.mp4"):
        found(tmp_path / "videos", {"kind": "hash", "val": 0.1, "test": 0.1})


def test_splits_that_cannot_be_made_are_refused(tmp_path):
    fill(tmp_path, "train/a.mp4", "validation/b.mp4", "test/c.mp4")
    with pytest.raises(
        InputError, match="val is not a folder; a data set with named splits needs the folders train, val"
    ):
        found(tmp_path, NAMED)
    with pytest.raises(InputError, match=r"lists the folder 'valid', which is not in .* test, train, validation"):
        found(tmp_path, {"kind": "folders", "val": ["valid"], "test": ["test"]})
    with pytest.raises(InputError, match="left for the split train"):
        found(tmp_path, {"kind": "folders", "val": ["validation", "train"], "test": ["test"]})


LISTS = {"kind": "lists", "train": "lists/train.txt", "val": "lists/val.txt", "test": "lists/test.txt"}


def write_lists(folder: Path, train: str, val: str, test: str) -> None:
    (folder / "lists").mkdir(exist_ok=True)
    for name, text in {"train": train, "val": val, "test": test}.items():
        (folder / "lists" / f"{name}.txt").write_text(text, encoding="utf-8")


def test_lists_give_each_video_its_split_and_tell_what_is_missing_and_what_is_not_listed(tmp_path):
    fill(tmp_path, "a b.mp4", "deep/ü.mp4", "c.mp4", "d.mp4")
    write_lists(tmp_path, "a b.mp4\r\n\r\ngone.mp4\r\n", "deep/ü.mp4\n", "c.mp4")
    assert found(tmp_path, LISTS) == [("train", "a b.mp4"), ("val", "deep/ü.mp4"), ("test", "c.mp4")]
    collection = sources.find(folder_config(tmp_path, LISTS))
    assert [(told.split, told.video) for told in collection.missing] == [("train", "gone.mp4")]
    assert [told.video for told in collection.left_out] == ["d.mp4"]
    assert not collection.complete
    (tmp_path / "gone.mp4").touch()
    assert sources.find(folder_config(tmp_path, LISTS)).complete


def test_a_video_in_two_lists_and_a_missing_list_are_refused(tmp_path):
    fill(tmp_path, "a.mp4", "b.mp4")
    write_lists(tmp_path, "a.mp4\nb.mp4", "", "b.mp4")
    with pytest.raises(InputError, match=r"b\.mp4 is listed for train and for test"):
        found(tmp_path, LISTS)
    (tmp_path / "lists/val.txt").unlink()
    with pytest.raises(InputError, match=r"the list .*val\.txt does not exist; put it there"):
        found(tmp_path, LISTS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": {"kind": "folders", "val": ["a"], "test": ["a"]}}, "a is listed for val and for test"),
        ({"split": {"kind": "hash", "val": 0.5, "test": 0.5}}, "leave nothing to train"),
        ({"split": {"kind": "hash", "val": -0.1, "test": 0.5}}, "greater than or equal to 0"),
        ({"split": {"kind": "random"}}, "'named', 'folders', 'hash', 'lists'"),
        ({"step": 0}, "step is 0"),
        ({"resolution": [64, 0]}, r"resolution\.1 is 0"),
        ({"max_rejected": 1.5}, "less than or equal to 1"),
        ({"frames": "17"}, "frames is '17'"),
    ],
)
def test_impossible_choices_are_named(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        folder_config(tmp_path, **{"split": NAMED, **changes})
