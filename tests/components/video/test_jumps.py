"""A picture from the middle of a video is that of decoding all of it, and what comes before is not decoded."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor

from components.video import excerpts, pyav_reader
from components.video.seeking import packets
from tests.components.video.films import copied, encode, film, scanned, truth

SIZE = (64, 128)
OPEN = {"g": "24", "bf": "2", "x264-params": "open-gop=1:bframes=3"}
GRID = [  # codec, container, options, longest group of pictures
    ("libx264", "mpegts", {"g": "24"}, 24),
    ("libx264", "mpegts", OPEN, 24),
    ("libx264", "mpegts", {"g": "24", "x264-params": "interlaced=1"}, 24),
    ("libx265", "mpegts", {"x265-params": "keyint=24:open-gop=1:bframes=4:log-level=none"}, 24),
    ("mpeg2video", "mpegts", {"g": "12", "bf": "2"}, 12),
    ("mpeg2video", "mpeg", {"g": "12", "bf": "0"}, 12),
    ("mpeg2video", "vob", {"g": "12", "bf": "2"}, 12),
    ("mpeg1video", "mpeg", {"g": "12", "bf": "2"}, 12),
    ("mpeg4", "avi", {"g": "12", "bf": "2"}, 12),
    ("libx264", "avi", {"g": "12"}, 12),
    ("mjpeg", "avi", {}, 1),
    ("libx264", "flv", OPEN, 24),
    ("flv", "flv", {"g": "12"}, 12),
    ("libtheora", "ogg", {"g": "12"}, 12),
    ("libvpx", "ogg", {"g": "12"}, 12),
    ("wmv2", "asf", {"g": "12"}, 12),
    ("mpeg4", "3gp", {"g": "12"}, 12),
    ("mjpeg", "mjpeg", {}, 1),
    ("mpeg2video", "mxf", {"g": "12"}, 12),
]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that PyAV decodes for a reader."""
    counted: list[int] = []

    def counting(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def decode(*given: Any) -> Iterator[Any]:
            for frame in function(*given):
                counted.append(1)
                yield frame

        return decode

    for name in ("_frames", "numbered"):
        monkeypatch.setattr(pyav_reader, name, counting(getattr(pyav_reader, name)))
    return counted


def moving(frames: int) -> Tensor:
    """Noise that travels: motion that encoders predict from other pictures."""
    noise = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0)).mul(140)
    ground = torch.nn.functional.interpolate(noise, (SIZE[0] + frames, SIZE[1] + frames))[0]
    parts = [ground[:, n // 2 : n // 2 + SIZE[0], n : n + SIZE[1]] for n in range(frames)]
    return (torch.stack(parts) + 0.4 * film(frames, *SIZE)).to(torch.uint8)


@pytest.mark.parametrize(("codec", "form", "options", "group"), GRID)
def test_a_part_is_that_of_decoding_all_and_only_the_groups_of_pictures_around_it_are_decoded(
    tmp_path: Path, decoded: list[int], codec: str, form: str, options: dict[str, str], group: int
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    path, frames = tmp_path / "film", 150
    encode(path, codec, form, moving(frames), "yuvj420p" if codec == "mjpeg" else "yuv420p", **options)
    _, whole = scanned(path, SIZE, "pyav")
    draw = random.Random(0)
    for first in (0, 1, frames // 2, frames - 4, *(draw.randrange(frames - 3) for _ in range(5))):
        decoded.clear()
        made = excerpts.part(path, SIZE, first, 4)
        assert torch.equal(made.frames, whole[first : first + 4]), first
        assert made.first == first
        # two tries of at most two groups before and, in AVI, the first pictures and the margin of counting
        assert len(decoded) <= min(first + 8, 3 * group + 24) + (32 + 2 * group + 16 if form == "avi" else 0), first
    made = excerpts.read(path, SIZE, 110 / 25, 4)
    assert torch.equal(made.frames, whole[made.first : made.first + 4])
    assert made.first == 110


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
def test_a_broadcast_that_begins_between_key_frames_has_the_numbers_of_decoding_all(
    tmp_path: Path, decoded: list[int], codec: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    options = OPEN | {"x265-params": "keyint=24:open-gop=1:bframes=4:log-level=none"}
    encode(tmp_path / "whole.ts", codec, "mpegts", moving(150), **options)
    copied(tmp_path / "whole.ts", tmp_path / "film.ts", lambda number, packet: number >= 8)
    _, whole = scanned(tmp_path / "film.ts", SIZE, "pyav")
    assert torch.equal(whole, truth(tmp_path / "whole.ts")[-len(whole) :])
    assert packets.listed(tmp_path / "film.ts").doubt is None
    for first in (1, 40, 77, len(whole) - 4):
        decoded.clear()
        made = excerpts.part(tmp_path / "film.ts", SIZE, first, 4)
        assert torch.equal(made.frames, whole[first : first + 4])
        assert len(decoded) < 40 + 3 * 24
    assert excerpts.read(tmp_path / "film.ts", SIZE, None, 4).first == len(whole) - 4


@pytest.mark.parametrize("seconds", [5000, 95_440])
def test_a_clock_that_does_not_begin_at_zero_or_wraps_changes_nothing(
    tmp_path: Path, decoded: list[int], seconds: int
) -> None:
    times = [1000 * seconds + 40 * number for number in range(150)]
    encode(tmp_path / "film.ts", "libx264", "mpegts", moving(150), milliseconds=times, g="24")
    _, whole = scanned(tmp_path / "film.ts", SIZE, "pyav")
    for first in (50, 100, 140):
        decoded.clear()
        made = excerpts.read(tmp_path / "film.ts", SIZE, first / 25, 4)
        assert made.first == first
        assert torch.equal(made.frames, whole[first : first + 4])
        assert len(decoded) < 3 * 24 + 24


def test_pictures_of_a_variable_rate_are_found_by_their_times(tmp_path: Path) -> None:
    times = [*range(0, 2000, 40), *range(2000, 12_000, 200)]
    for codec, form in (("libx264", "mpegts"), ("libx264", "flv"), ("mpeg4", "avi")):
        options = {"g": "12", "bf": "0"}
        encode(tmp_path / "film", codec, form, moving(100), milliseconds=times, **options)
        _, whole = scanned(tmp_path / "film", SIZE, "pyav")
        for start, first in ((1.0, 25), (1.97, 49), (2.1, 50), (7.5, 77)):
            made = excerpts.read(tmp_path / "film", SIZE, start, 2)
            assert (made.first, torch.equal(made.frames, whole[first : first + 2])) == (first, True)


def test_joined_transport_streams_are_decoded_from_their_begin_and_played_without_the_gap(
    tmp_path: Path, decoded: list[int]
) -> None:
    encode(tmp_path / "one.ts", "libx264", "mpegts", moving(50), g="10")
    encode(tmp_path / "other.ts", "libx264", "mpegts", moving(50), milliseconds=range(900_000, 902_000, 40), g="10")
    one, other = ((tmp_path / name).read_bytes() for name in ("one.ts", "other.ts"))
    for content in (one + other, other + one, one + one):
        (tmp_path / "film.ts").write_bytes(content)
        _, whole = scanned(tmp_path / "film.ts", SIZE, "pyav")
        assert packets.listed(tmp_path / "film.ts").doubt
        for first in (20, 49, 50, 70, 99):
            decoded.clear()
            made = excerpts.read(tmp_path / "film.ts", SIZE, first / 25, 2)
            assert (made.first, torch.equal(made.frames, whole[first : first + 2])) == (first, True)
            assert len(decoded) > first
        assert excerpts.read(tmp_path / "film.ts", SIZE, None, 3).first == 97


@pytest.mark.parametrize(("codec", "form", "pixels"), [("gif", "gif", "rgb8"), ("libx264", "h264", "yuv420p")])
def test_a_file_without_key_frames_or_times_is_decoded_from_its_begin(
    tmp_path: Path, codec: str, form: str, pixels: str
) -> None:
    encode(tmp_path / "film", codec, form, moving(60), pixels, g="12")
    _, whole = scanned(tmp_path / "film", SIZE, "pyav")
    for first in (1, 30, 57):
        assert torch.equal(excerpts.part(tmp_path / "film", SIZE, first, 3).frames, whole[first : first + 3])


def test_a_gradual_refresh_is_no_key_frame(tmp_path: Path) -> None:
    options = {"g": "24", "x264-params": "intra-refresh=1"}
    for form in ("mpegts", "matroska", "flv"):
        encode(tmp_path / "film", "libx264", form, moving(100), **options)
        _, whole = scanned(tmp_path / "film", SIZE, "pyav")
        for first in (24, 30, 50, 80, 96):
            assert torch.equal(excerpts.part(tmp_path / "film", SIZE, first, 3).frames, whole[first : first + 3])
