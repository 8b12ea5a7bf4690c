"""Frames are what players show: upright, of the shown shape, of the shown stream, from the first whole picture on."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor

from components.datasets import resizing
from components.foundation.errors import InputError
from tests.components.video.films import copied, encode, film, psnr, scanned, truth

ONE, UNIT = 2**16, 2**30
QUARTERS = {  # turns against the clock that were made -> the display matrix that takes them back
    1: (0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT),
    2: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, UNIT),
    3: (0, -ONE, 0, ONE, 0, 0, 0, 0, UNIT),
}


def upright_film() -> Tensor:
    """Higher than wide, red above and blue below, every frame another picture."""
    clip = torch.zeros(12, 3, 192, 128, dtype=torch.uint8)
    clip[:, :, :96] = torch.tensor([220, 30, 30], dtype=torch.uint8)[:, None, None]
    clip[:, :, 96:] = torch.tensor([30, 30, 220], dtype=torch.uint8)[:, None, None]
    clip[:, 1, 80:112, :64] = 10 * torch.arange(12, dtype=torch.uint8)[:, None, None]
    return clip


@pytest.mark.parametrize("form", ["mp4", "matroska"])
@pytest.mark.parametrize("reader", ["auto", "pyav"])
@pytest.mark.parametrize("quarters", QUARTERS)
def test_a_turned_video_stands_upright(tmp_path: Path, form: str, reader: str, quarters: int) -> None:
    lying = torch.rot90(upright_film(), quarters, (2, 3))
    matrix = QUARTERS[quarters]
    encode(tmp_path / "film", "libx264", form, lying, prepare=lambda stream: stream.set_display_matrix(matrix))
    facts, frames = scanned(tmp_path / "film", (192, 128), reader)
    assert (facts.reader, facts.sizes) == ("decord" if reader == "auto" else "pyav", ((192, 128),))
    assert psnr(frames, upright_film()) > 30


def test_a_mirrored_video_is_mirrored_back(tmp_path: Path) -> None:
    matrix = (-ONE, 0, 0, 0, ONE, 0, 0, 0, UNIT)
    mirrored = upright_film().flip(3)
    encode(tmp_path / "film.mp4", "libx264", "mp4", mirrored, prepare=lambda stream: stream.set_display_matrix(matrix))
    facts, frames = scanned(tmp_path / "film.mp4", (192, 128))
    assert (facts.reader, facts.reason) == ("pyav", "the pictures are mirrored")
    assert psnr(frames, upright_film()) > 30


@pytest.mark.parametrize("reader", ["auto", "pyav"])
@pytest.mark.parametrize("quarters", [0, 1])
def test_pixels_that_are_not_square_give_the_shown_shape(tmp_path: Path, reader: str, quarters: int) -> None:
    shown = film(8, 128, 256)
    stored = resizing.resize(shown, (128, 128))

    def prepare(stream: object) -> None:
        ratio = Fraction(1, 2) if quarters else Fraction(2)
        stream.codec_context.sample_aspect_ratio = ratio  # type: ignore[attr-defined]
        if quarters:
            stream.set_display_matrix(QUARTERS[quarters])  # type: ignore[attr-defined]

    stored = torch.rot90(stored, quarters, (2, 3))
    encode(tmp_path / "film.mp4", "libx264", "mp4", stored, prepare=prepare)
    for size in ((64, 128), (64, 64), (128, 128)):
        _, frames = scanned(tmp_path / "film.mp4", size, reader)
        assert psnr(frames, resizing.fit(shown, size)) > 27, size


def test_the_default_stream_is_read_even_if_another_one_comes_first(tmp_path: Path) -> None:
    clips = {"preview": film(9).flip(3), "shown": film(9)}
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        streams = {}
        for name, clip in clips.items():
            streams[name] = stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *clip.shape[-2:], "yuv420p"
            stream.disposition = av.stream.Disposition.default if name == "shown" else av.stream.Disposition(0)
        for pair in zip(*clips.values(), strict=True):
            for stream, picture in zip(streams.values(), pair, strict=True):
                frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams.values():
            container.mux(stream.encode())
    facts, frames = scanned(tmp_path / "film.mkv", (48, 64))
    assert facts.reason == "the file has several video streams"
    assert psnr(frames, film(9)) > 30


@pytest.mark.parametrize(
    ("codec", "form"), [("libx264", "ts"), ("libx264", "mkv"), ("mpeg2video", "ts"), ("libx265", "ts")]
)
def test_a_video_that_begins_between_key_frames_plays_from_the_first_picture_that_can_be_decoded(
    tmp_path: Path, codec: str, form: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encode(tmp_path / "whole.ts", codec, "mpegts", film(60), g="20", bf="2")
    copied(tmp_path / "whole.ts", tmp_path / f"cut.{form}", lambda number, packet: number >= 8)
    facts, frames = scanned(tmp_path / f"cut.{form}", (48, 64))
    whole = truth(tmp_path / "whole.ts")
    assert 36 <= len(frames) <= 40
    assert torch.equal(frames, whole[-len(frames) :])
    (doubt,) = facts.doubts
    assert doubt.startswith("begins in the middle of a group of pictures: its first ")


def test_a_video_without_a_key_frame_is_named(tmp_path: Path) -> None:
    encode(tmp_path / "whole.ts", "libx264", "mpegts", film(60))
    copied(tmp_path / "whole.ts", tmp_path / "cut.ts", lambda number, packet: number >= 8)
    with pytest.raises(InputError, match="holds no key frame, from which decoding could start; export it again"):
        scanned(tmp_path / "cut.ts", (48, 64))


def test_a_video_that_begins_with_an_open_group_of_pictures_drops_those_that_look_back(tmp_path: Path) -> None:
    encode(tmp_path / "whole.ts", "mpeg2video", "mpegts", film(60), g="12", bf="2")
    copied(tmp_path / "whole.ts", tmp_path / "cut.ts", lambda number, packet: number >= 5)
    _, frames = scanned(tmp_path / "cut.ts", (48, 64))
    assert torch.equal(frames, truth(tmp_path / "whole.ts")[-len(frames) :])
    assert len(frames) >= 46


def noise() -> Tensor:
    """Pictures that take several packets of a transport stream each."""
    return torch.randint(0, 256, (30, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_capture_that_ends_within_a_picture_is_kept_and_told(tmp_path: Path) -> None:
    encode(tmp_path / "film.ts", "libx264", "mpegts", noise())
    content = (tmp_path / "film.ts").read_bytes()
    (tmp_path / "film.ts").write_bytes(content[: len(content) - 188 * 3])
    facts, frames = scanned(tmp_path / "film.ts", (96, 160))
    assert 27 <= len(frames) < 30
    assert facts.doubts == ("ends in the middle of a picture",)


@pytest.mark.parametrize(("codec", "form"), [("mpeg2video", "mpegts"), ("mpeg4", "avi")])
def test_a_last_picture_that_is_damaged_is_left_out(tmp_path: Path, codec: str, form: str) -> None:
    encode(tmp_path / "film", codec, form, noise(), g="10")
    whole, content = truth(tmp_path / "film"), (tmp_path / "film").read_bytes()
    for missing in (2000, 4000, 6000):
        (tmp_path / "film").write_bytes(content[: len(content) - missing])
        facts, frames = scanned(tmp_path / "film", (96, 160))
        assert 20 <= len(frames) < 30
        assert torch.equal(frames, whole[: len(frames)])
        assert facts.doubts


def test_damage_that_ffmpeg_reports_and_decodes_nevertheless_is_told(tmp_path: Path) -> None:
    encode(tmp_path / "film.gif", "gif", "gif", noise(), "rgb8")
    content = (tmp_path / "film.gif").read_bytes()
    (tmp_path / "film.gif").write_bytes(content[: len(content) // 2])
    for _ in range(2):  # FFmpeg's messages are the same for the second reading
        facts, _ = scanned(tmp_path / "film.gif", (96, 160))
        assert len(facts.doubts) == 1
        assert facts.doubts[0].startswith("is damaged: FFmpeg reports ")


def test_a_crop_at_the_left_is_applied(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", "libx264", "mp4", film(9, 64, 192), qp="1")
    with av.open(str(tmp_path / "whole.mp4")) as whole, av.open(str(tmp_path / "film.mp4"), "w") as cropped:
        stream = whole.streams.video[0]
        copy = cropped.add_stream_from_template(stream)
        crop = av.bitstream.BitStreamFilterContext("h264_metadata=crop_left=16:crop_right=32", stream, copy)
        for packet in whole.demux(stream):
            for changed in crop.filter(packet if packet.size else None):
                changed.stream = copy
                cropped.mux(changed)
    _, frames = scanned(tmp_path / "film.mp4", (64, 144))
    assert psnr(frames, film(9, 64, 192)[..., 16:160]) > 35


def test_a_capture_that_lacks_a_part_in_its_middle_is_told(tmp_path: Path) -> None:
    encode(tmp_path / "film.ts", "libx264", "mpegts", noise())
    content = bytearray((tmp_path / "film.ts").read_bytes())
    middle = len(content) // 188 // 2 * 188
    del content[middle : middle + 40 * 188]
    (tmp_path / "film.ts").write_bytes(content)
    facts, frames = scanned(tmp_path / "film.ts", (96, 160))
    assert 25 < len(frames) < 30
    (doubt,) = facts.doubts
    assert doubt == "may lack data at 1 place, where packets of its container are lost or streams are joined"
