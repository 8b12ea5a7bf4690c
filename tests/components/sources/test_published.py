"""Published data sets, written small in their official formats: every video has its split, the counts are checked."""

from pathlib import Path

import pytest
import torch

from components.datasets.clips import Clips
from components.foundation import config
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.sources import bair, sources
from components.sources.collection import Collection
from components.sources.sources import AnyDataset, DatasetConfig
from components.video.video import Decoding
from tests.components.sources import official
from tests.components.sources.test_cutting import make

CUT = {"frames": 17, "stride": 1, "step": 13, "shard": 2, "max_rejected": 0.0, "require_complete": False}
CUT |= {"words": None, "actions": None}
FILES = {"reader": "auto", "fps": None}
ARCHERY, DIVING = "Archery/v_Archery", "Diving/v_Diving"


class Holder(Config):
    dataset: AnyDataset


def parse(folder: Path, **choices: object) -> DatasetConfig:
    data = {"path": str(folder), "resolution": [16, 16], **CUT, **choices}
    return config.parse(Holder, {"dataset": data}, where="test").dataset


def names(collection: Collection) -> list[tuple[str, str]]:
    return [(source.split, source.name) for source in collection.videos]


# --- BAIR


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bair")
    official.bair(folder, {"train": (2, 1), "test": (1,)})
    return folder


def pushing(folder: Path, **changes: object) -> DatasetConfig:
    choices = {"kind": "bair", "camera": "image_aux1", "val": 0.0, "resolution": [64, 64], **changes}
    return parse(folder, **choices)


@pytest.mark.parametrize("camera", ["image_main", "image_aux1"])
def test_an_episode_is_thirty_pictures_of_its_camera_bit_for_bit(robot: Path, camera: str) -> None:
    found = sources.find(pushing(robot, camera=camera))
    assert names(found) == [
        ("train", "softmotion30_44k/train/traj_0_to_1.tfrecords/0000"),
        ("train", "softmotion30_44k/train/traj_0_to_1.tfrecords/0001"),
        ("train", "softmotion30_44k/train/traj_2_to_2.tfrecords/0000"),
        ("test", "softmotion30_44k/test/traj_0_to_0.tfrecords/0000"),
    ]
    for source, seed in zip(found.videos, (0, 1, 1000, 500), strict=True):
        frames: list[torch.Tensor] = []
        facts = source.scan(Decoding((64, 64), "auto", None), lambda into=frames: into.append)
        truth = torch.from_numpy(official.episode(seed)[camera]).permute(0, 3, 1, 2)
        assert torch.equal(torch.cat(frames), truth)
        assert (facts.declared, facts.repeated) == (30, 0)


def test_episodes_become_clips_and_a_damaged_one_harms_no_other(robot: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bair"
    official.bair(folder, {"train": (3,), "test": (1,)})
    file = folder / "softmotion30_44k/train/traj_0_to_2.tfrecords"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    numbers = make(tmp_path / "out", pushing(folder, max_rejected=0.3))
    assert (numbers["videos"], numbers["videos_rejected"], numbers["complete"]) == (4, 1, 0)
    assert (numbers["clips_train"], numbers["clips_test"]) == (4, 2)
    clip = Clips.open(tmp_path / "out", "test").read([0])[0]
    assert torch.equal(clip, torch.from_numpy(official.episode(500)["image_aux1"][:17]).permute(0, 3, 1, 2))
    page = (tmp_path / "out/rejected.html").read_text(encoding="utf-8")
    for words in ("no: train 3 of 43264, test 1 of 256 videos", "is damaged in the record at byte", "Ebert et al."):
        assert words in page


def test_a_share_of_the_training_episodes_goes_to_val_and_the_test_set_stays(tmp_path: Path) -> None:
    place = tmp_path / "softmotion30_44k"
    for part, count in (("train", 400), ("test", 20)):
        (place / part).mkdir(parents=True)
        (place / part / f"traj_0_to_{count - 1}.tfrecords").write_bytes(official.record(b"") * count)
    found = sources.find(pushing(tmp_path, val=0.25))
    splits = [source.split for source in found.videos]
    assert found.parts == {"train": 400, "test": 20}
    assert abs(splits.count("val") - 100) < 30
    assert splits.count("train") + splits.count("val") == 400


def test_an_incomplete_data_set_is_refused_where_it_must_be_complete(robot: Path) -> None:
    with pytest.raises(
        InputError, match=r"is an incomplete copy of BAIR robot pushing: train 3 of 43264, test 1 of 256"
    ):
        sources.find(pushing(robot, require_complete=True))
    assert bair.FACTS.counts == {"train": 43_264, "test": 256}


def test_episodes_without_the_pictures_of_a_camera_are_named(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    picture = bytes(64 * 64 * 3)
    odd = [{"0/image_main/encoded": picture}, {"1/image_aux1/encoded": picture}, {"0/image_aux1/encoded": b"small"}]
    content = b"".join(official.record(official.example(features)) for features in odd)
    (tmp_path / "train/traj_0_to_2.tfrecords").write_bytes(content + official.record(b"\x0b"))
    (tmp_path / "test/traj_0_to_0.tfrecords").write_bytes(b"")
    found = sources.find(pushing(tmp_path))
    reasons = (
        "no pictures of image_aux1",
        "some frames only",
        "frame 0 of 5 bytes instead of 12288",
        "no tf.train.Example",
    )
    for source, words in zip(found.videos, reasons, strict=True):
        with pytest.raises(InputError, match=words):
            source.scan(Decoding((64, 64), "auto", None), lambda: print)


@pytest.mark.parametrize(
    ("folders", "words"),
    [((), "train is not a folder; unpack"), (("train", "test"), "holds no files that end in .tfrecords")],
)
def test_a_folder_that_is_not_bairs_is_refused(tmp_path: Path, folders: tuple[str, ...], words: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=words):
        sources.find(pushing(tmp_path))


# --- UCF-101


def actions(folder: Path, **changes: object) -> DatasetConfig:
    return parse(folder, **{"kind": "ucf101", "official_split": 1, "val": 0.0, **FILES, **changes})


def test_the_official_lists_split_ucf101_and_what_they_do_not_agree_with_is_told(tmp_path: Path) -> None:
    train = (f"{ARCHERY}_g08_c01", f"{ARCHERY}_g08_c02", f"{DIVING}_g09_c01")
    official.ucf101(tmp_path, train, (f"{ARCHERY}_g01_c01",), others=(f"{DIVING}_g99_c01",))
    (tmp_path / f"UCF-101/{DIVING}_g09_c01.avi").unlink()
    found = sources.find(actions(tmp_path))
    assert names(found) == [
        ("train", f"{ARCHERY}_g08_c01.avi"),
        ("train", f"{ARCHERY}_g08_c02.avi"),
        ("test", f"{ARCHERY}_g01_c01.avi"),
    ]
    assert [(told.split, told.video) for told in found.missing] == [("train", f"{DIVING}_g09_c01.avi")]
    assert [told.video for told in found.left_out] == [f"{DIVING}_g99_c01.avi"]
    assert found.counted() == "train 2 of 9537, test 1 of 3783 videos, 1 listed ones missing"
    with pytest.raises(InputError, match=r"an incomplete copy of UCF-101, split 1"):
        sources.find(actions(tmp_path, require_complete=True))
    numbers = make(tmp_path / "out", actions(tmp_path))
    assert (numbers["clips_train"], numbers["clips_test"], numbers["videos_missing"]) == (2, 1, 1)


def test_the_official_counts_of_every_split_are_all_the_videos() -> None:
    from components.sources.ucf101 import COUNTS

    assert COUNTS[1] == {"train": 9_537, "test": 3_783}
    assert {sum(counts.values()) for counts in COUNTS.values()} == {13_320}


def test_a_group_of_ucf101_is_never_in_two_splits(tmp_path: Path) -> None:
    listed = [f"{ARCHERY}_g{group:02d}_c{clip:02d}.avi 1" for group in range(8, 26) for clip in range(1, 5)]
    (tmp_path / "UCF-101/Archery").mkdir(parents=True)
    (tmp_path / "ucfTrainTestlist").mkdir()
    for line in listed:
        (tmp_path / "UCF-101" / line.split()[0]).touch()
    (tmp_path / "ucfTrainTestlist/trainlist01.txt").write_text("\n".join(listed))
    (tmp_path / "ucfTrainTestlist/testlist01.txt").write_text("")
    splits: dict[str, set[str]] = {}
    for source in sources.find(actions(tmp_path, val=0.3)).videos:
        splits.setdefault(source.name.rpartition("_")[0], set()).add(source.split)
    assert len(splits) == 18
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "val"} == set().union(*splits.values())


def test_a_missing_tree_a_missing_list_and_a_video_in_both_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="UCF-101 is not a folder; unpack the archive"):
        sources.find(actions(tmp_path))
    official.ucf101(tmp_path, (f"{ARCHERY}_g08_c01",), (f"{ARCHERY}_g08_c01",))
    with pytest.raises(InputError, match=r"testlist01\.txt names .*, which is in the other list too"):
        sources.find(actions(tmp_path))
    with pytest.raises(InputError, match=r"the list .*trainlist02\.txt does not exist"):
        sources.find(actions(tmp_path, official_split=2))


# --- Kinetics-600


def test_annotations_split_kinetics_and_missing_videos_are_counted(tmp_path: Path) -> None:
    train = ("--07WQ2iBlw_000001_000011", "a_b_c-d_e_f_000120_000130")
    official.kinetics600(
        tmp_path, {"train": train, "val": ("zzzzzzzzzzz_000000_000010",), "test": ()}, ("gone1234567_000005_000015",)
    )
    (tmp_path / "train/some class").mkdir()
    (tmp_path / f"train/{train[1]}.mp4").rename(tmp_path / f"train/some class/{train[1]}.mp4")
    (tmp_path / "train/notes.mp4").touch()
    (tmp_path / "val/unknown1234_000000_000010.mp4").touch()
    found = sources.find(parse(tmp_path, kind="kinetics600", **FILES))
    assert names(found) == [
        ("train", f"train/{train[0]}.mp4"),
        ("train", f"train/some class/{train[1]}.mp4"),
        ("val", "val/zzzzzzzzzzz_000000_000010.mp4"),
    ]
    assert [told.video for told in found.missing] == ["train/gone1234567_000005_000015.mp4"]
    assert {told.video: told.reason for told in found.left_out} == {
        "train/notes.mp4": "is not named <youtube_id>_<start>_<end>.mp4",
        "val/unknown1234_000000_000010.mp4": "is not in the annotations",
    }
    assert found.counted() == "train 2 of 427549, val 1 of 29793, test 0 of 72924 videos, 1 listed ones missing"
    assert make(tmp_path / "out", parse(tmp_path, kind="kinetics600", **FILES))["clips_train"] == 2


def test_parts_of_one_film_are_never_in_two_splits(tmp_path: Path) -> None:
    film = "samefilm123"
    official.kinetics600(
        tmp_path,
        {
            "train": (f"{film}_000001_000011", "other123456_000000_000010"),
            "val": (),
            "test": (f"{film}_000020_000030",),
        },
    )
    found = sources.find(parse(tmp_path, kind="kinetics600", **FILES))
    assert names(found) == [
        ("train", "train/other123456_000000_000010.mp4"),
        ("test", f"test/{film}_000020_000030.mp4"),
    ]
    assert [told.reason for told in found.left_out] == ["is part of a YouTube video that test has too"]


def test_missing_folders_and_annotations_that_are_no_table_are_refused(tmp_path: Path) -> None:
    official.kinetics600(tmp_path, {"train": ("--07WQ2iBlw_000001_000011",), "val": (), "test": ()})
    (tmp_path / "annotations/val.txt").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"val\.txt cannot be read as a table with the columns youtube_id"):
        sources.find(parse(tmp_path, kind="kinetics600", **FILES))
    (tmp_path / "annotations/val.txt").unlink()
    with pytest.raises(InputError, match=r"neither .*val\.txt nor .*val\.csv exists"):
        sources.find(parse(tmp_path, kind="kinetics600", **FILES))
    (tmp_path / "train").rename(tmp_path / "training")
    with pytest.raises(InputError, match="train is not a folder; unpack the archives"):
        sources.find(parse(tmp_path, kind="kinetics600", **FILES))
