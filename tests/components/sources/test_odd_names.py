"""Videos with odd names, and videos that may not be read, end in the report or in the clips, and never a stage."""

import csv

import av
import pytest

from components.datasets.clips import Clips
from components.sources import cutting, sources
from components.video import video
from tests.components.sources.test_cutting import film, films, folder_config, make, videos

__all__ = ["films", "videos"]  # fixtures


@pytest.mark.parametrize("name", ["a\rb.mp4", "a\nb.mp4", "a\r\nb.mp4", "a\u2028b.mp4", 'a, "b".mp4', "\udcff.mp4"])
def test_a_video_of_any_name_is_cut_and_its_clips_are_listed_in_a_line_each(videos, tmp_path, name):
    video.write(videos / "train/new.mp4", film(9, 5), 10)
    (videos / "train/new.mp4").rename(videos / "train" / name)
    make(tmp_path / "out", folder_config(videos))
    train = Clips.open(tmp_path / "out", "train")
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    for sign, escape in (("\r", "\\r"), ("\n", "\\n"), ("\u2028", "\\u2028")):
        shown = shown.replace(sign, escape)
    assert f"train/{shown}@0" in [train.name(index) for index in range(len(train))]
    for file, count in (("clips.csv", 6 + 2), ("videos.csv", 6)):
        text = (tmp_path / "out" / file).read_text(encoding="utf-8")
        assert len(text.splitlines()) == len(list(csv.reader(text.splitlines()))) == count + 1


def test_a_video_without_permission_is_rejected_with_that_reason(videos, tmp_path, monkeypatch):
    whole = av.open

    def refused(path, *words, **more):
        if path.endswith("a.mp4"):
            raise PermissionError(13, "Permission denied")
        return whole(path, *words, **more)

    monkeypatch.setattr(av, "open", refused)  # root may read everything
    choices = folder_config(videos)
    report = cutting.write_shard(cutting.jobs(sources.find(choices).videos, choices)[0], choices, tmp_path)
    assert [(told.video, told.reason) for told in report.rejections] == [
        ("train/a.mp4", "cannot be read for lack of permission")
    ]
