"""A few frames from the middle of a video are those of reading all of it, in the memory of a few frames."""

import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from components.foundation.errors import InputError
from components.video import excerpts
from tests.components.video.films import copied, encode, film, scanned

ROOT = Path(__file__).parents[3]
KINDS = [
    ("libx264", "mp4", {"g": "30"}),
    ("libx264", "matroska", {"g": "30", "x264-params": "open-gop=1"}),
    ("libx265", "mp4", {"x265-params": "keyint=30:open-gop=1"}),
    ("libx265", "matroska", {"x265-params": "keyint=30:open-gop=0"}),
    ("libvpx-vp9", "webm", {"g": "30"}),
    ("mpeg4", "avi", {"g": "12", "bf": "2"}),
    ("libx264", "avi", {"g": "30"}),
    ("libx264", "mpegts", {"g": "30"}),
    ("mpeg2video", "mpeg", {"g": "12"}),
    ("libsvtav1", "mp4", {"g": "30"}),
]


@pytest.mark.parametrize(("codec", "form", "options"), KINDS)
def test_an_excerpt_is_a_part_of_the_whole(tmp_path: Path, codec: str, form: str, options: dict[str, str]) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encode(tmp_path / "film", codec, form, film(100, 64, 128), **options)
    _, whole = scanned(tmp_path / "film", (64, 128), "pyav")
    for first in (0, 1, 13, 29, 30, 31, 47, 59, 60, 61, 88, 96, 99):
        made = excerpts.read(tmp_path / "film", (64, 128), first / 25, 5)
        assert torch.equal(made.frames, whole[first : first + 5]), first
        assert made.first == first


def test_decord_jumps_in_what_it_reads_correctly(tmp_path: Path) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(100, 64, 128), g="30")
    encode(tmp_path / "film.ts", "libx264", "mpegts", film(100, 64, 128), g="30")
    assert excerpts.read(tmp_path / "film.mp4", (64, 128), 2.5, 3).reader == "decord"
    assert excerpts.read(tmp_path / "film.ts", (64, 128), 2.5, 3).reader == "pyav"


def test_an_excerpt_begins_with_the_picture_that_is_shown_then(tmp_path: Path) -> None:
    encode(tmp_path / "film.mkv", "libx264", "matroska", film(5, 64, 128), milliseconds=[0, 40, 80, 2000, 2040], bf="0")
    assert [excerpts.read(tmp_path / "film.mkv", (64, 128), time, 9).first for time in (0.0, 0.1, 1.99, 2.01)] == [
        0,
        2,
        2,
        3,
    ]
    with pytest.raises(InputError, match=r"lasts 2\.08 s, so it has no frame at 3 s; start earlier"):
        excerpts.read(tmp_path / "film.mkv", (64, 128), 3.0, 1)


def test_the_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", "mpeg4", "mp4", film(60, 64, 128))
    copied(tmp_path / "whole.mp4", tmp_path / "film.mp4", lambda number, packet: number >= 12, shift=18)
    _, whole = scanned(tmp_path / "film.mp4", (64, 128))
    for first in (0, 3, 20):
        assert torch.equal(
            excerpts.read(tmp_path / "film.mp4", (64, 128), first / 25, 4).frames, whole[first : first + 4]
        )


@pytest.mark.parametrize(("codec", "form", "options"), KINDS)
def test_the_last_frames_are_those_of_reading_all(
    tmp_path: Path, codec: str, form: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encode(tmp_path / "film", codec, form, film(100, 64, 128), **options)
    _, whole = scanned(tmp_path / "film", (64, 128), "pyav")
    for most in (1, 2, 31, 99, 100, 101):
        made = excerpts.read(tmp_path / "film", (64, 128), None, most)
        assert torch.equal(made.frames, whole[-most:]), most
        assert made.first == max(0, 100 - most)


def test_the_last_frames_of_a_file_that_begins_between_key_frames_have_the_numbers_of_reading_all(tmp_path: Path):
    encode(tmp_path / "whole.mkv", "libx264", "matroska", film(60, 64, 128), g="30", bf="0")
    copied(tmp_path / "whole.mkv", tmp_path / "film.mkv", lambda number, packet: number >= 12)
    _, whole = scanned(tmp_path / "film.mkv", (64, 128), "pyav")
    made = excerpts.read(tmp_path / "film.mkv", (64, 128), None, 4)
    assert torch.equal(made.frames, whole[-4:])
    assert made.first == len(whole) - 4


def test_a_part_is_chosen_by_the_index_of_its_first_frame(tmp_path: Path) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(30, 64, 128), g="10")
    _, whole = scanned(tmp_path / "film.mp4", (64, 128), "pyav")
    for first, count in ((0, 1), (0, 40), (1, 3), (17, 5), (29, 3)):
        made = excerpts.part(tmp_path / "film.mp4", (64, 128), first, count)
        assert torch.equal(made.frames, whole[first : first + count])
        assert made.first == first
    with pytest.raises(InputError, match=r"film\.mp4 has 30 frames, so it has no frame 30; start earlier"):
        excerpts.part(tmp_path / "film.mp4", (64, 128), 30, 1)


def test_the_newest_frames_of_a_range_are_read_and_no_others(tmp_path: Path) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(30, 64, 128), g="10")
    _, whole = scanned(tmp_path / "film.mp4", (64, 128), "pyav")
    for first, count, most in (
        (0, None, 7),
        (0, None, 40),
        (26, None, 7),
        (0, 1, 7),
        (3, 20, 7),
        (3, 5, 7),
        (28, 5, 7),
    ):
        made = excerpts.newest(tmp_path / "film.mp4", (64, 128), first, count, most)
        chosen = whole[first : None if count is None else first + count]
        assert torch.equal(made.frames, chosen[-most:])
        assert made.first == first + max(0, len(chosen) - most)
    assert len(excerpts.newest(tmp_path / "film.mp4", (64, 128), 40, None, 7).frames) == 0


@pytest.mark.parametrize(("codec", "form"), [("libx264", "mp4"), ("mpeg4", "avi"), ("gif", "gif")])
def test_frames_at_another_rate_are_the_pictures_shown_then(tmp_path: Path, codec: str, form: str) -> None:
    """A file with a list of packets, and one of which all pictures are played."""
    pixels = {"pixels": "rgb8"} if form == "gif" else {}
    encode(tmp_path / "film", codec, form, film(50, 64, 128), **pixels)
    facts, whole = scanned(tmp_path / "film", (64, 128), "pyav")
    assert facts.fps == 25
    last = excerpts.read(tmp_path / "film", (64, 128), None, 4, 10.0)
    assert torch.equal(last.frames, whole[[41, 44, 46, 49]])  # 0.3, 0.2 and 0.1 s before the last picture, and it
    assert last.first == 41
    assert last.times == pytest.approx((1.64, 1.76, 1.84, 1.96))
    for start, count, shown in ((0.0, 3, [0, 2, 5]), (0.5, 3, [12, 15, 17]), (1.85, 9, [46, 48])):
        made = excerpts.read(tmp_path / "film", (64, 128), start, count, 10.0)
        assert torch.equal(made.frames, whole[shown]), start
    slow = excerpts.read(tmp_path / "film", (64, 128), None, 4, 50.0)
    assert torch.equal(slow.frames, whole[[47, 48, 48, 49]])
    assert len(excerpts.read(tmp_path / "film", (64, 128), None, 99, 10.0).frames) == 20


def test_an_outline_names_the_part_that_frames_show(tmp_path: Path) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(5, 64, 128))
    assert excerpts.outline(tmp_path / "film.mp4", (32, 32)) == excerpts.Outline((64, 128), (64, 64), 25.0)


PEAK = """
import resource, sys
from pathlib import Path
from components.video import excerpts, video
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
path = Path(sys.argv[1])
excerpts.read(path, (64, 64), 0.0, 1)
excerpts.read(Path(sys.argv[2]), (64, 64), None, 1)
before = peak()
assert len(eval(sys.argv[3]).frames) == 16
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("form", "call"),
    [
        ("mp4", "excerpts.read(path, (64, 64), 19.0, 16)"),
        ("mp4", "excerpts.part(path, (360, 640), 0, 16)"),
        ("mp4", "excerpts.read(path, (360, 640), None, 16)"),
        ("mpegts", "excerpts.read(path, (360, 640), None, 16)"),
    ],
)
def test_an_excerpt_of_a_long_video_takes_the_memory_of_a_few_frames(tmp_path: Path, form: str, call: str) -> None:
    part = film(30, 360, 640)
    encode(tmp_path / "film", "libx264", form, part.repeat(20, 1, 1, 1), g="30", preset="ultrafast")
    encode(tmp_path / "short", "libx264", form, part, g="30", preset="ultrafast")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "film"), str(tmp_path / "short"), call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 150  # MiB; all frames take 395
