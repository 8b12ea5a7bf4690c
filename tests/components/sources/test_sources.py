import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from components.foundation import config
from components.foundation.errors import InputError
from components.sources import sources
from components.sources.sources import FolderConfig
from components.video import video

CUT = {"frames": 17, "stride": 1, "step": 17, "resolution": [8, 8], "shard": 4, "max_rejected": 0.0}
CUT |= {"reader": "auto", "fps": None, "words": None, "actions": None}
NAMED = {"kind": "named"}
LISTS = {"kind": "lists", "train": "lists/train.txt", "val": "lists/val.txt", "test": "lists/test.txt"}


def folder_config(folder: Path, split: dict[str, object], **changes: object) -> FolderConfig:
    data = {"kind": "folder", "path": str(folder), "split": split, **CUT, **changes}
    return config.parse(FolderConfig, data, where="test")


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def written(path: Path) -> Path:
    video.write(path, torch.zeros(3, 3, 16, 16, dtype=torch.uint8), 10)
    return path


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
    hidden = [name for name, reason in left_out(tmp_path, NAMED).items() if reason == "is hidden"]
    assert hidden == ["train/.cache", "train/._a.mp4"]


def test_a_file_is_read_or_listed_with_its_reason(tmp_path):
    endings = ["flv", "ogv", "vob", "mxf", "asf", "3g2", "qt", "mpe", "MP4", "AVI", "MOV"]
    fill(tmp_path, *(f"{number}.{ending}" for number, ending in enumerate(endings)), "a.webp", "notes.txt", "README")
    fill(tmp_path, "captions.csv")
    shutil.copyfile(written(tmp_path / "film.mp4"), tmp_path / "recording")
    config = folder_config(tmp_path, {"kind": "hash", "val": 0.0, "test": 0.0}, words="captions.csv")
    collection = sources.find(config)
    names = {source.name for source in collection.videos}
    assert names == {*(f"{number}.{ending}" for number, ending in enumerate(endings)), "film.mp4", "recording"}
    assert {finding.video: finding.reason for finding in collection.left_out} == {
        "a.webp": "ends in .webp, as no video does",
        "notes.txt": "ends in .txt, as no video does",
        "README": "does not begin like a video",
    }


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


def test_links_within_the_folder_are_left_out_because_their_files_are_read_where_they_lie(tmp_path):
    fill(tmp_path, "train/a.mp4", "val/b.mp4", "test/c.mp4", "train/deep/d.mp4")
    (tmp_path / "train/deep/up").symlink_to(tmp_path / "train")
    (tmp_path / "val/root").symlink_to(tmp_path)
    (tmp_path / "test/self.mp4").symlink_to(tmp_path / "test/self.mp4")
    names = [name for _, name in found(tmp_path, NAMED)]
    assert names == ["train/a.mp4", "train/deep/d.mp4", "val/b.mp4", "test/c.mp4", "test/self.mp4"]
    assert left_out(tmp_path, NAMED) == {
        "train/deep/up": "is a link to the folder train, whose files are read there",
        "val/root": "is a link to the folder ., whose files are read there",
    }


def test_a_link_to_a_folder_elsewhere_is_refused_with_what_to_do(tmp_path):
    fill(tmp_path / "the pool", "a.mp4")
    fill(tmp_path / "set", "train/a.mp4", "val/b.mp4", "test/c.mp4")
    link = tmp_path / "set/train/more"
    link.symlink_to(tmp_path / "the pool")
    with pytest.raises(InputError, match=r"more is a link to the folder .*pool, and DVC does not detect") as refused:
        found(tmp_path / "set", NAMED)
    subprocess.run(str(refused.value).rpartition("links to its files: ")[2], shell=True, check=True)
    assert ("train", "train/more/a.mp4") in found(tmp_path / "set", NAMED)


@pytest.mark.parametrize("target", ["pool", "set/pool"])
def test_a_split_that_is_a_link_is_refused(tmp_path, target):
    fill(tmp_path / target, "a.mp4")
    fill(tmp_path / "set", "val/b.mp4", "test/c.mp4")
    (tmp_path / "set/train").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="train is a link to the folder"):
        found(tmp_path / "set", NAMED)


def test_the_folder_itself_may_be_a_link(tmp_path):
    fill(tmp_path / "pool", "train/a.mp4", "val/b.mp4", "test/c.mp4")
    (tmp_path / "set").symlink_to(tmp_path / "pool")
    assert ("train", "train/a.mp4") in found(tmp_path / "set", NAMED)


def test_a_path_that_dvc_would_not_expand_is_refused():
    with pytest.raises(InputError, match="begins with ~, which DVC does not expand; write /"):
        found(Path("~/videos"), NAMED)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("../captions.csv", "lies outside of the data set's folder"),
        ("/captions.csv", "lies outside of the data set's folder"),
        (".meta/captions.csv", "is hidden, so its changes are not recorded; rename .meta"),
        ("meta/captions.csv", "meta is a link to the folder"),
    ],
)
def test_a_file_of_settings_whose_changes_dvc_would_not_see_is_refused(tmp_path, file, told):
    fill(tmp_path / "set", "a.mp4", "b.mp4")
    fill(tmp_path, "elsewhere/captions.csv")
    (tmp_path / "set/meta").symlink_to(tmp_path / "elsewhere")
    for changes in ({"words": file}, {"actions": file}, {"split": LISTS | {"val": file}}):
        config = folder_config(tmp_path / "set", **{"split": {"kind": "hash", "val": 0.0, "test": 0.0}, **changes})
        with pytest.raises(InputError, match=re.escape(told)):
            sources.find(config)


def test_a_file_linked_twice_counts_once_in_a_split_and_never_in_two(tmp_path):
    fill(tmp_path, "train/a.mp4", "val/b.mp4", "test/c.mp4")
    (tmp_path / "train/again.mp4").symlink_to(tmp_path / "train/a.mp4")
    assert [name for _, name in found(tmp_path, NAMED)] == ["train/a.mp4", "val/b.mp4", "test/c.mp4"]
    assert left_out(tmp_path, NAMED) == {"train/again.mp4": "is the same file as train/a.mp4"}
    (tmp_path / "test/leak.mp4").symlink_to(tmp_path / "train/a.mp4")
    with pytest.raises(InputError, match=r"test/leak\.mp4 and train/a\.mp4 .* same file, in the splits test and train"):
        found(tmp_path, NAMED)
    assert len(found(tmp_path, {"kind": "hash", "val": 0.0, "test": 0.4})) == 3


def test_a_name_that_is_no_text_or_no_line_still_has_a_name(tmp_path):
    fill(tmp_path, "train/\udcff.mp4", "val/b\r.mp4", "test/ü ö\n.mp4")
    assert [name for _, name in found(tmp_path, NAMED)] == ["train/\\xff.mp4", "val/b\\r.mp4", "test/ü ö\\n.mp4"]
    fill(tmp_path, "val/b\\r.mp4")
    with pytest.raises(InputError, match=r"two files in .* have the name"):
        found(tmp_path, NAMED)


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="absent does not exist; correct the data set's path"):
        found(tmp_path / "absent", NAMED)
    with pytest.raises(InputError, match="is a file, not a folder"):
        found(fill(tmp_path, "film.mp4") / "film.mp4", NAMED)
    fill(tmp_path, "videos/notes.txt")
    with pytest.raises(InputError, match=r"holds no videos; add files that end in .*\.mp4"):
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": {"kind": "folders", "val": ["a"], "test": ["a"]}}, "a is listed for val and for test"),
        ({"split": {"kind": "hash", "val": 0.5, "test": 0.5}}, "leave nothing to train"),
        ({"split": {"kind": "hash", "val": -0.1, "test": 0.5}}, "it must be at least 0 and below 1"),
        ({"split": {"kind": "random"}}, "'named', 'folders', 'hash', 'lists'"),
        ({"step": 0}, "step is 0"),
        ({"resolution": [64, 0]}, r"resolution\.1 is 0"),
        ({"max_rejected": 1.5}, "it must be at least 0 and at most 1"),
        ({"frames": "17"}, "frames is '17'"),
    ],
)
def test_impossible_choices_are_named(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        folder_config(tmp_path, **{"split": NAMED, **changes})
