"""A container's length is no promise: files are whole unless their container says otherwise."""

from pathlib import Path

import av
import pytest

from components.foundation.errors import InputError
from components.video import lengths, video
from tests.components.video.films import encode, film, scanned, sound

DENSE = [40 * number for number in range(40)]  # 25 pictures a second, then one a second: a recording that comes to rest
TIMES = DENSE + [DENSE[-1] + 1000 * (number + 1) for number in range(40)]


@pytest.mark.parametrize("reader", ["auto", "pyav"])
@pytest.mark.parametrize(
    ("codec", "form"),
    [("libx264", "matroska"), ("libvpx", "webm"), ("libx264", "mp4"), ("mpeg4", "avi"), ("libx264", "mpegts")],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_variable_rate_is_no_missing_frame(tmp_path: Path, codec: str, form: str, reader: str, backwards) -> None:
    times = [TIMES[-1] - time for time in reversed(TIMES)] if backwards else TIMES
    encode(tmp_path / "film", codec, form, film(80, 64, 128), milliseconds=times, bf="0")
    facts, frames = scanned(tmp_path / "film", (64, 128), reader)
    assert (len(frames), facts.doubts, facts.steady) == (80, (), False)
    assert facts.fps == pytest.approx(79 / 41.56, abs=0.01)


def with_long_sound(path: Path, codec: str, form: str) -> None:
    """Three seconds of pictures and ten of sound."""
    encode(path.with_name("pictures"), codec, form, film(75, 64, 128))
    with av.open(str(path.with_name("pictures"))) as source, av.open(str(path), "w", format=form) as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        sound(container, 10)
        for packet in packets:
            packet.stream = copy
            container.mux(packet)


@pytest.mark.parametrize(
    ("codec", "form"),
    [("libx264", "matroska"), ("libx264", "mp4"), ("libx264", "flv"), ("libx264", "mpegts"), ("mpeg4", "asf")],
)
def test_sound_that_outlasts_the_pictures_is_no_missing_frame(tmp_path: Path, codec: str, form: str) -> None:
    with_long_sound(tmp_path / "film", codec, form)
    facts, frames = scanned(tmp_path / "film", (64, 128))
    assert (len(frames), facts.doubts) == (75, ())


def test_joined_transport_streams_are_read_whole(tmp_path: Path) -> None:
    encode(tmp_path / "one.ts", "libx264", "mpegts", film(50))
    times = [1_000_000 + 40 * number for number in range(50)]
    encode(tmp_path / "other.ts", "libx264", "mpegts", film(50), milliseconds=times)
    one, other = ((tmp_path / name).read_bytes() for name in ("one.ts", "other.ts"))
    for content in (one + other, other + one):
        (tmp_path / "joined.ts").write_bytes(content)
        facts, frames = scanned(tmp_path / "joined.ts", (48, 64))
        assert (len(frames), facts.fps) == (100, 25)
        assert all(doubt.startswith("may lack data at 1 place") for doubt in facts.doubts)  # where they were joined


@pytest.mark.parametrize("delays", [[100] * 19 + [5000], [3000] + [50] * 19, [0] * 20, [100] * 20])
def test_a_gif_whose_frames_have_lengths_of_their_own_is_not_suspicious(tmp_path: Path, delays: list[int]) -> None:
    from PIL import Image

    pictures = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in film(20)]
    pictures[0].save(tmp_path / "film.gif", save_all=True, append_images=pictures[1:], duration=delays, loop=0)
    facts, frames = scanned(tmp_path / "film.gif", (48, 64))
    assert (len(frames), facts.doubts) == (20, ())


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "flv", "asf", "mxf"])
def test_a_file_of_which_half_is_missing_is_truncated(tmp_path: Path, form: str) -> None:
    codec = {"avi": "mpeg4", "asf": "wmv2", "mxf": "mpeg2video"}.get(form, "libx264")
    options = {"movflags": "faststart"} if form == "mp4" else {}
    encode(tmp_path / "film", codec, form, film(100), **options)
    content = (tmp_path / "film").read_bytes()
    (tmp_path / "film").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is truncated: "):
        video.read(tmp_path / "film", (48, 64))


@pytest.mark.parametrize(("codec", "form"), [("mpeg4", "matroska"), ("mpeg4", "avi"), ("wmv2", "asf")])
def test_a_file_that_lacks_its_last_bytes_is_kept_and_told(tmp_path: Path, codec: str, form: str) -> None:
    encode(tmp_path / "film", codec, form, film(100))
    content = (tmp_path / "film").read_bytes()
    (tmp_path / "film").write_bytes(content[: -len(content) // 20])
    facts, frames = scanned(tmp_path / "film", (48, 64))
    assert 85 < len(frames) <= 100
    assert any(doubt.startswith("lacks the last ") for doubt in facts.doubts)


def test_an_ogg_file_that_ends_within_a_page_is_told(tmp_path: Path) -> None:
    encode(tmp_path / "film", "libvpx", "ogg", film(100))
    content = (tmp_path / "film").read_bytes()
    assert lengths.missing_bytes(tmp_path / "film", "ogg") is None
    (tmp_path / "film").write_bytes(content[:-7])
    assert lengths.missing_bytes(tmp_path / "film", "ogg") == 7
    (tmp_path / "film").write_bytes(content[: content.rindex(b"OggS") + 20])  # within the header of a page
    assert lengths.missing_bytes(tmp_path / "film", "ogg")


@pytest.mark.parametrize(
    ("codec", "form"), [("libx264", "mp4"), ("libx264", "mov"), ("libx264", "matroska"), ("mpeg4", "avi")]
)
def test_the_missing_bytes_of_a_file_are_counted(tmp_path: Path, codec: str, form: str) -> None:
    encode(tmp_path / "film", codec, form, film(20), **({"movflags": "faststart"} if form != "matroska" else {}))
    with av.open(str(tmp_path / "film")) as container:
        name = container.format.name
    content = (tmp_path / "film").read_bytes()
    assert lengths.missing_bytes(tmp_path / "film", name) == 0
    (tmp_path / "film").write_bytes(content + b"appended by a camera")
    assert lengths.missing_bytes(tmp_path / "film", name) == 0
    (tmp_path / "film").write_bytes(content[:-1000])
    assert lengths.missing_bytes(tmp_path / "film", name) in (1000, 999)  # a chunk of AVI may be padded


def test_a_file_written_live_states_no_size(tmp_path: Path) -> None:
    encode(tmp_path / "film", "libx264", "matroska", film(20), live="1")
    assert lengths.missing_bytes(tmp_path / "film", lengths.MATROSKA) is None
    assert len(video.read(tmp_path / "film", (48, 64)).frames) == 20
