"""Actions beside videos: read, matched with the frames, cut with the clips, refused where they do not fit."""

import numpy as np
import pytest
import torch

from components.datasets import actions, annotations, shards
from components.datasets.annotations import Annotations
from components.datasets.clips import Clips, ClipsManifest
from components.foundation.errors import InputError
from components.foundation.files import sha256
from components.sources import cutting, sources
from components.video import video
from tests.components.sources.test_cutting import film, folder_config

FRAMES = {"train/a.mp4": 9, "train/b.mp4": 6, "test/c.mp4": 7}


def given(name: str, frames: int) -> np.ndarray:
    """Numbers that say which frame of which video they belong to."""
    return np.stack([np.arange(frames) * 0.1, np.full(frames, float(ord(name[-5])))], 1).astype(np.float32)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "val").mkdir(parents=True)
    for seed, (name, frames) in enumerate(FRAMES.items()):
        video.write(folder / name, film(seed, frames), 10)
    rows = [(name, given(name, frames)) for name, frames in FRAMES.items()]
    actions.write_csv(folder / actions.CSV, ("right", "down"), rows)
    return folder


def cut(folder, out, turn=1, **changes):
    """What the stage does."""
    config = folder_config(folder, actions=actions.CSV, **changes)
    found, state = sources.find(config), out.with_name(f"{out.name}-state")
    table = actions.matched(actions.read(folder / actions.CSV), {source.name for source in found.videos}, set())
    reports = [cutting.write_shard(job, config, state) for job in cutting.jobs(found.videos, config)[::turn]]
    cutting.finish(out, state, reports, found, config, None, table)


def test_float32_values_are_read_back_exactly(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    actions.write_csv(tmp_path / "a.csv", ("x", "y", "z"), [("v.mp4", rows), ("w.mp4", rows[:2])])
    table = actions.read(tmp_path / "a.csv")
    assert table.columns == ("x", "y", "z")
    assert np.array_equal(table.videos["v.mp4"].astype(np.float32), rows)
    assert table.videos["w.mp4"].shape == (2, 3)


def test_every_clip_has_the_actions_of_its_own_frames(videos, tmp_path):
    cut(videos, tmp_path / "out")
    clips = Clips.open(tmp_path / "out", "train")
    found = clips.annotations(range(len(clips)))
    assert found.words is None
    assert found.actions.shape == (len(clips), 5, 2)
    for index in range(len(clips)):
        name, first = clips.name(index).rsplit("@", 1)
        expected = given(name, FRAMES[name])[int(first) : int(first) + 5]
        assert torch.equal(found.actions[index], torch.from_numpy(expected))
    assert actions.of(tmp_path / "out", shards.read_manifest(ClipsManifest, tmp_path / "out").files).columns == (
        "right",
        "down",
    )


def test_with_a_stride_a_frame_has_the_mean_of_the_actions_until_the_next_kept_one(videos, tmp_path):
    cut(videos, tmp_path / "out", frames=3, stride=3, step=1)
    found = Clips.open(tmp_path / "out", "test").annotations([0]).actions[0, :, 0]
    assert found.tolist() == pytest.approx([0.1, 0.4, 0.6])  # of frames 0 to 2, 3 to 5, and the video's last, 6


def test_the_bytes_do_not_depend_on_the_order_of_the_work_and_the_manifest_lists_them(videos, tmp_path):
    cut(videos, tmp_path / "a")
    cut(videos, tmp_path / "b", turn=-1)
    first, second = ((tmp_path / name / actions.FILE).read_bytes() for name in "ab")
    assert first == second
    manifest = shards.read_manifest(ClipsManifest, tmp_path / "a")
    assert manifest.files[actions.FILE] == sha256(tmp_path / "a" / actions.FILE)
    Clips.open(tmp_path / "a", "train").verify()


def test_another_action_gives_the_clips_another_hash(videos, tmp_path):
    cut(videos, tmp_path / "a")
    text = (videos / actions.CSV).read_text()
    (videos / actions.CSV).write_text(text.replace("test/c.mp4,3,0.3", "test/c.mp4,3,0.4"))
    cut(videos, tmp_path / "b")
    assert Clips.open(tmp_path / "a", "train").hash != Clips.open(tmp_path / "b", "train").hash


def test_latents_carry_the_annotations_and_a_damaged_file_is_refused(videos, tmp_path):
    cut(videos, tmp_path / "a")
    files = shards.read_manifest(ClipsManifest, tmp_path / "a").files
    (tmp_path / "latents").mkdir()
    carried = annotations.carry(tmp_path / "a", files, tmp_path / "latents")
    assert carried == {actions.FILE: files[actions.FILE]}
    assert annotations.carry(tmp_path / "a", {"clips.csv": "x"}, tmp_path / "latents") == {}
    one, other = (actions.of(folder, carried) for folder in (tmp_path / "a", tmp_path / "latents"))
    assert all(torch.equal(one.splits[split], other.splits[split]) for split in shards.SPLITS)
    (tmp_path / "a" / actions.FILE).write_bytes(b"x")
    for read in (lambda: actions.of(tmp_path / "a", files), lambda: annotations.carry(tmp_path / "a", files, tmp_path)):
        with pytest.raises(InputError, match="differs from its manifest"):
            read()


def test_annotations_are_sliced_and_repeated_clip_by_clip():
    both = Annotations(["x", "y", "z"], torch.arange(6.0).view(3, 2, 1))
    assert both[1:].words == ["y", "z"]
    assert both[1:].actions[0, 0].tolist() == [2.0]
    assert both.repeated(2).words == ["x", "x", "y", "y", "z", "z"]
    assert both.repeated(2).actions[:, 0, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert annotations.NONE[:1].repeated(3) == annotations.NONE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("video,frame\na.mp4,0\n", "needs the columns video and frame and at least one action column"),
        ("video,x\na.mp4,0\n", "needs the columns video and frame and at least one action column"),
        ("video,frame,x,x\na.mp4,0,1,2\n", "each name once, but its first line is video,frame,x,x"),
        ("", "its first line is empty"),
        ("video,frame,x\na.mp4,0,1\na.mp4,2,1\n", "has no line for frame 1 of a.mp4"),
        ("video,frame,x\na.mp4,1,1\n", "has no line for frame 0 of a.mp4; add one line per frame, counting from 0"),
        ("video,frame,x\na.mp4,0,1\na.mp4,0,1\n", "has frame 0 of a.mp4 twice; keep one"),
        ("video,frame,x\na.mp4,first,1\n", "line 2: frame is 'first'"),
        ("video,frame,x\na.mp4,-1,1\n", "line 2: frame is '-1'"),
        ("video,frame,x\na.mp4,0,left\n", "line 2: x is 'left'; give a finite number"),
        ("video,frame,x\na.mp4,0,nan\n", "line 2: x is 'nan'; give a finite number"),
        ("video,frame,x\na.mp4,0,1e300\n", "line 2: x is '1e300'; give a finite number"),
        ("video,frame,x,y\na.mp4,0,1\n", "line 2 has 3 values for the 4 columns video,frame,x,y"),
        ("video,frame,x\na.mp4,0,1,5\n", "line 2 has 4 values for the 3 columns video,frame,x"),
        ("video;frame;x\na.mp4;0;1\n", "separate the values by commas, not by semicolons"),
    ],
)
def test_a_csv_that_holds_no_actions_is_told_in_one_sentence(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv") as caught:
        actions.read(tmp_path / "a.csv")
    assert told in str(caught.value)


def test_videos_without_actions_and_the_reverse_are_told_in_one_sentence(videos, tmp_path):
    table = actions.read(videos / actions.CSV)
    with pytest.raises(InputError, match=r"has actions for train/a\.mp4, but the data set has no such video"):
        actions.matched(table, {"train/b.mp4"}, {"test/c.mp4"})
    with pytest.raises(InputError, match=r"has no actions for other\.mp4; add a line for each of its frames"):
        actions.matched(table, {*FRAMES, "other.mp4"}, set())
    renamed = actions.Table(table.path, table.columns, {f"./{name.upper()}": table.videos[name] for name in FRAMES})
    again = actions.matched(renamed, set(FRAMES), set())
    assert all(again.videos[name] is table.videos[name] for name in FRAMES)
    both = actions.Table(table.path, table.columns, table.videos | renamed.videos)
    with pytest.raises(InputError, match=r"names train/a\.mp4 in two ways, one of them \./TRAIN/A\.MP4"):
        actions.matched(both, set(FRAMES), set())
    with pytest.raises(InputError, match="cannot be read"):
        actions.read(tmp_path / "none.csv")
    text = (videos / actions.CSV).read_text().splitlines()
    (videos / actions.CSV).write_text("\n".join(line for line in text if not line.startswith("test/c.mp4,6")))
    with pytest.raises(InputError, match=r"has 6 lines for test/c\.mp4, which has 7 frames; give one line per frame"):
        cut(videos, tmp_path / "out")
