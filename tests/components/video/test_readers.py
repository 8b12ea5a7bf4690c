"""decord and PyAV give the same frames; auto takes decord where decord reads the file correctly."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from components.foundation.errors import InputError
from components.video import decord_reader, ffmpeg_reports, video
from tests.components.video.films import copied, encode, film, packets, psnr, scanned, truth

if decord_reader.library() is None:
    pytest.skip("there is no wheel of decord2 for this system", allow_module_level=True)
READABLE = [
    ("libx264", "mp4"),
    ("libx264", "matroska"),
    ("libx264", "mov"),
    ("libx264", "avi"),
    ("libx265", "mp4"),
    ("libx265", "matroska"),
    ("libvpx-vp9", "webm"),
    ("libvpx-vp9", "mp4"),
    ("mpeg4", "avi"),
    ("mpeg4", "mp4"),
    ("libsvtav1", "mp4"),
    ("libsvtav1", "webm"),
]


@pytest.mark.parametrize(("codec", "form"), READABLE)
@pytest.mark.parametrize("size", [(64, 128), (90, 320), (98, 150)])
def test_both_readers_give_the_same_frames_to_the_last_bit(tmp_path: Path, codec: str, form: str, size) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encode(tmp_path / "film", codec, form, film(40, *size))
    (one, theirs), (other, ours) = (scanned(tmp_path / "film", size, reader) for reader in ("auto", "pyav"))
    assert (one.reader, other.reader) == ("decord", "pyav")
    assert torch.equal(theirs, ours)
    assert torch.equal(ours, truth(tmp_path / "film"))
    assert (one.count, one.fps, one.steady) == (other.count, other.fps, other.steady) == (40, 25, True)


def test_films_of_ten_bits_differ_by_a_few_grey_levels(tmp_path: Path) -> None:
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder libx265")
    encode(tmp_path / "film", "libx265", "mp4", film(20, 64, 128), "yuv420p10le")
    (one, theirs), (_, ours) = (scanned(tmp_path / "film", (64, 128), reader) for reader in ("auto", "pyav"))
    assert one.reader == "decord"
    assert psnr(theirs, ours) > 35


def cut(path: Path) -> None:
    """An edit list hides the first frames."""
    encode(path.with_name("whole.mp4"), "mpeg4", "mp4", film(60, 64, 128))
    copied(path.with_name("whole.mp4"), path, lambda number, packet: number >= 12, shift=18)


def growing(path: Path) -> None:
    """The pictures become larger."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        for part, size in enumerate(((64, 128), (96, 192))):
            for packet in packets("libx264", size, "yuv420p", 10, 5):
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 25), packet.is_keyframe
                copy.pts, copy.dts = packet.pts + 10 * part, packet.dts + 10 * part
                container.mux(copy)


def looking_back(path: Path) -> None:
    """A part copied from a film with open groups of pictures."""
    whole = path.with_name("whole.mkv")
    encode(
        whole, "libx264", "matroska", film(60, 64, 128), **{"x264-params": "open-gop=1:keyint=20:bframes=2:scenecut=0"}
    )
    with av.open(str(whole)) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.is_keyframe and packet.size]
    copied(whole, path.with_name("film.mkv"), lambda number, packet: number >= keys[1])
    path.with_name("film.mkv").rename(path)


REFUSED = {
    "the container is not mp4, mov, mkv, webm or avi": lambda path: encode(path, "libx264", "mpegts", film(9, 64, 128)),
    "the codec is ffv1": lambda path: encode(path, "ffv1", "matroska", film(9, 64, 128), "bgr0"),
    "the pictures are narrow": lambda path: encode(path, "libx264", "mp4", film(9, 64, 96)),
    "an edit list hides frames": cut,
    "the size of the pictures changes": growing,
    "the pictures are interlaced": lambda path: encode(path, "mpeg4", "mp4", film(9, 64, 128), flags="+ildct+ilme"),
    "pictures before the first key frame are missing": looking_back,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_auto_leaves_to_pyav_what_decord_would_read_wrongly_and_says_why(tmp_path: Path, reason: str) -> None:
    REFUSED[reason](tmp_path / "film.mp4")
    facts, frames = scanned(tmp_path / "film.mp4", (64, 128))
    assert (facts.reader, facts.reason) == ("pyav", reason)
    assert torch.equal(frames, scanned(tmp_path / "film.mp4", (64, 128), "pyav")[1])


def test_a_long_video_is_left_to_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(9, 64, 128))
    assert scanned(tmp_path / "film.mp4", (64, 128))[0].reader == "decord"
    monkeypatch.setattr(decord_reader, "MOST_BYTES", 9 * 64 * 128 * 3 - 1)
    facts, _ = scanned(tmp_path / "film.mp4", (64, 128))
    assert (facts.reader, facts.reason) == ("pyav", "the video is long")


def test_a_file_whose_edit_list_decord_ignores_is_read_again_by_pyav(tmp_path: Path) -> None:
    cut(tmp_path / "film.mp4")
    facts, frames = scanned(tmp_path / "film.mp4", (64, 96), "decord")
    assert facts.reader == "pyav"
    assert facts.reason.startswith("decord ")
    assert torch.equal(frames, scanned(tmp_path / "film.mp4", (64, 96), "pyav")[1])


def test_what_decord_may_misread_if_it_is_demanded_is_told(tmp_path: Path) -> None:
    encode(tmp_path / "film.mkv", "ffv1", "matroska", film(9, 64, 128), "bgr0")
    facts, _ = scanned(tmp_path / "film.mkv", (64, 128), "decord")
    assert facts.reader == "decord"
    assert facts.doubts == ("may be misread, as reader is decord: the codec is ffv1",)


def test_pictures_that_decord_repeats_in_place_of_others_are_read_by_pyav(tmp_path: Path) -> None:
    encode(tmp_path / "film.ts", "mpeg2video", "mpegts", film(60, 64, 128), g="12", bf="2")
    facts, frames = scanned(tmp_path / "film.ts", (64, 128), "decord")
    assert facts.reader == "pyav"
    assert torch.equal(frames, truth(tmp_path / "film.ts"))


def test_narrow_pictures_come_out_right_even_if_decord_is_demanded(tmp_path: Path) -> None:
    # decord misplaces their rows only on processors with AVX-512, where rows begin at multiples of 64 bytes
    REFUSED["the pictures are narrow"](tmp_path / "film.mp4")
    facts, frames = scanned(tmp_path / "film.mp4", (64, 96), "decord")
    assert facts.reader == "decord" or facts.reason == "decord misplaces the rows of the pictures"
    assert torch.equal(frames, scanned(tmp_path / "film.mp4", (64, 96), "pyav")[1])


def test_damage_in_a_key_frame_is_found_before_decord_smears_it(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    encode(path, "libx264", "mp4", film(60, 64, 128), g="10")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe and packet.pos]
    content = bytearray(path.read_bytes())
    content[places[2] + 40 : places[2] + 140] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged and cannot be decoded"):
        scanned(path, (64, 128))


def outcome(path: Path, reader: str) -> str:
    try:
        return f"{len(scanned(path, (64, 128), reader)[1])} frames"
    except InputError as error:
        return str(error)


def test_damage_between_key_frames_that_pyav_refuses_is_refused_with_decord_too(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    noise = torch.randint(0, 256, (30, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encode(path, "libx264", "mp4", noise)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos and not packet.is_keyframe]
    whole, found = path.read_bytes(), []
    for place in places[::4]:
        content = bytearray(whole)
        for offset in range(20):
            content[place + 300 + 7 * offset] ^= 0x5A
        path.write_bytes(content)
        found.append(outcome(path, "auto"))
        assert found[-1] == outcome(path, "pyav")
    assert sum("is damaged" in told for told in found) > 3


def test_what_others_write_to_the_standard_error_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with ffmpeg_reports.reports() as outer, ffmpeg_reports.reports() as inner:
        os.write(2, b"someone else speaks\n")
        assert not outer()
        os.write(2, b"[h264 @ 0x55] error while decoding MB 2 4\n")
        assert outer()
        assert inner()
    assert capfd.readouterr().err == "someone else speaks\n"


def test_without_decord_pyav_reads_everything_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "film.mp4", "libx264", "mp4", film(9, 64, 128))
    monkeypatch.setitem(sys.modules, "decord", None)
    decord_reader.library.cache_clear()
    try:
        facts, frames = scanned(tmp_path / "film.mp4", (64, 128))
        assert (facts.reader, facts.reason, len(frames)) == ("pyav", "decord is not installed", 9)
        video.check("auto")
        with pytest.raises(InputError, match="decord, which is not installed; install decord2 or set reader to auto"):
            video.check("decord")
    finally:
        decord_reader.library.cache_clear()
