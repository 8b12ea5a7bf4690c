"""Which files of a folder count as videos: by their endings, each of a format that is read, or by their first bytes."""

import os
from pathlib import Path

import av
import pytest

from components.video import video
from tests.components.video.films import encode, film

FORMATS = [
    ("mp4", "mp4", "libx264"), ("m4v", "mp4", "libx264"), ("f4v", "f4v", "libx264"), ("ismv", "ismv", "libx264"),
    ("mov", "mov", "mpeg4"), ("qt", "mov", "mpeg4"), ("3gp", "3gp", "mpeg4"), ("3gpp", "3gp", "mpeg4"),
    ("3g2", "3g2", "mpeg4"), ("3gp2", "3g2", "mpeg4"), ("mkv", "matroska", "libx264"), ("webm", "webm", "libvpx"),
    ("avi", "avi", "mpeg4"), ("divx", "avi", "mpeg4"), ("mpg", "mpeg", "mpeg1video"), ("mpeg", "mpeg", "mpeg2video"),
    ("mpe", "mpeg", "mpeg1video"), ("mpv", "mpeg2video", "mpeg2video"), ("m1v", "mpeg1video", "mpeg1video"),
    ("m2v", "mpeg2video", "mpeg2video"), ("vob", "vob", "mpeg2video"), ("ts", "mpegts", "libx264"),
    ("m2t", "mpegts", "mpeg2video"), ("m2ts", "mpegts", "libx264"), ("mts", "mpegts", "libx264"),
    ("trp", "mpegts", "mpeg2video"), ("tod", "mpegts", "mpeg2video"), ("wmv", "asf", "wmv2"), ("asf", "asf", "wmv2"),
    ("wtv", "wtv", "mpeg2video"), ("flv", "flv", "libx264"), ("ogv", "ogg", "libvpx"), ("ogm", "ogg", "libvpx"),
    ("mxf", "mxf", "mpeg2video"), ("rm", "rm", "rv10"), ("rmvb", "rm", "rv10"), ("nut", "nut", "libx264"),
    ("gif", "gif", "gif"), ("apng", "apng", "apng"), ("h264", "h264", "libx264"), ("264", "h264", "libx264"),
    ("h265", "hevc", "libx265"), ("265", "hevc", "libx265"), ("hevc", "hevc", "libx265"), ("obu", "obu", "libsvtav1"),
    ("ivf", "ivf", "libvpx"), ("mjpeg", "mjpeg", "mjpeg"), ("mjpg", "mjpeg", "mjpeg"),
    ("y4m", "yuv4mpegpipe", "rawvideo"),
    ("dv", "dv", "dvvideo"), ("gxf", "gxf", "mpeg2video"),
]  # fmt: skip
PIXELS = {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p", "dvvideo": "yuv411p"}
SIZES = {"dv": (480, 720), "gxf": (480, 720)}  # the only ones of these formats


def test_every_ending_is_tried() -> None:
    assert {f".{ending}" for ending, _, _ in FORMATS} == video.SUFFIXES


@pytest.mark.parametrize(("ending", "form", "codec"), FORMATS)
def test_a_file_of_this_ending_counts_in_lower_and_upper_case_and_is_read(
    tmp_path: Path, ending: str, form: str, codec: str
) -> None:
    path = tmp_path / f"film.{ending.upper()}"
    assert video.why_no_video(path) is None
    assert video.why_no_video(path.with_suffix(f".{ending}")) is None
    if codec not in av.codecs_available or form not in av.formats_available:
        pytest.skip(f"this PyAV cannot write {codec} in {form}")
    size = SIZES.get(ending, (64, 128))
    encode(path, codec, form, film(6, *size), pixels=PIXELS.get(codec, "yuv420p"))
    assert video.read(path, size).count == 6


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mpeg", "mpeg1video"), ("mpegts", "libx264"),
        ("asf", "wmv2"), ("flv", "flv1"), ("mxf", "mpeg2video"), ("mpeg2video", "mpeg2video"), ("rm", "rv10"),
        ("nut", "libx264"), ("ivf", "libvpx"), ("yuv4mpegpipe", "rawvideo"),
    ],
)  # fmt: skip
def test_a_file_without_an_ending_counts_if_it_begins_like_a_video(tmp_path: Path, form: str, codec: str) -> None:
    encode(tmp_path / "film", codec, form, film(6, 64, 128))
    assert video.why_no_video(tmp_path / "film") is None


def test_a_file_that_is_no_video_has_a_reason_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for name in ("README", "pipe"):
        assert video.why_no_video(tmp_path / name) == "does not begin like a video"
    assert video.why_no_video(tmp_path / "a.webp") == "ends in .webp, as no video does"
