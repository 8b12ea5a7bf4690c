"""Video files: what is written can be read, what is broken is named, frames come whole and in order."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from components.datasets import resizing
from components.foundation.errors import InputError
from components.video import pictures, video
from tests.components.video.films import encode, film, packets, psnr, truth

DROID = Path(__file__).resolve().parents[3] / "../shared/data/droid"


# --- what is written can be read


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (64, 63), (17, 16)])
def test_a_clip_written_and_read_again_is_nearly_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = film(17, *size)
    video.write(tmp_path / "clip.mp4", clip, 10)
    read = video.read(tmp_path / "clip.mp4", size)
    assert read.frames.shape == clip.shape
    assert psnr(read.frames, clip) > 30
    assert (read.fps, read.declared) == (10, 17)
    assert read.duration == pytest.approx(1.7)


def test_the_same_clip_gives_the_same_bytes_whatever_lay_in_memory_before(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    clips = [film(20, 64, 64).roll((8 * shift, 8 * shift), (2, 3)) for shift in range(4)]  # few blocks wide
    written: list[set[bytes]] = [set() for _ in clips]
    held: list[Tensor] = []
    for turn in range(8):
        held.append(torch.randint(0, 255, (100_000 + 7_777 * turn,), generator=generator))
        if turn % 2:
            held.pop(0)
        for clip, found in zip(clips, written, strict=True):
            video.write(tmp_path / "clip.mp4", clip, 10)
            found.add((tmp_path / "clip.mp4").read_bytes())
    assert [len(found) for found in written] == [1] * len(clips)


def test_writing_makes_the_folder_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "clip.mp4"
    video.write(path, film(4), 10)
    video.write(path, film(9), 10)
    assert len(video.read(path, (48, 64)).frames) == 9
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a film of mine.mp4", "фильм 動画 été.mp4", "100%#?&'.mp4", "UPPER.MP4"])
def test_a_name_may_be_anything(tmp_path: Path, name: str) -> None:
    video.write(tmp_path / name, film(5), 10)
    assert len(video.read(tmp_path / name, (48, 64)).frames) == 5


def test_a_gif_loops_for_ever_and_keeps_its_colours_and_time(tmp_path: Path) -> None:
    video.write_gif(tmp_path / "clip.gif", film(), 10)
    with Image.open(tmp_path / "clip.gif") as picture:
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == 100
    read = video.read(tmp_path / "clip.gif", (48, 64))
    assert read.frames.shape == film().shape
    assert psnr(read.frames, film()) > 30


# --- frames come whole and in order


CONTAINERS = [
    ("libx264", "mp4"),
    ("libx264", "matroska"),
    ("libx264", "mov"),
    ("libx265", "mp4"),
    ("libvpx-vp9", "webm"),
    ("mpeg4", "avi"),
    ("mpeg2video", "mpeg"),
]


MORE = [
    ("libx264", "mpegts"),
    ("libsvtav1", "mp4"),
    ("flv", "flv"),
    ("libtheora", "ogg"),
    ("mpeg2video", "vob"),
    ("mpeg2video", "mxf"),
    ("mpeg4", "3g2"),
    ("wmv2", "asf"),
]


@pytest.mark.parametrize(("codec", "form"), [*CONTAINERS, *MORE])
def test_every_container_gives_all_its_frames_in_order(tmp_path: Path, codec: str, form: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    encode(tmp_path / "film", codec, form, film(50, 64, 96))
    assert torch.equal(video.read(tmp_path / "film", (64, 96)).frames, truth(tmp_path / "film"))


def test_the_parts_of_a_long_video_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write(tmp_path / "clip.mp4", film(20), 10)
    whole = video.read(tmp_path / "clip.mp4", (24, 24))
    monkeypatch.setattr(pictures, "CHUNK_FRAMES", 7)
    parts = list(video.frames(tmp_path / "clip.mp4", (24, 24)))
    assert [len(part.frames) for part in parts] == [7, 7, 6]
    assert torch.equal(torch.cat([part.frames for part in parts]), whole.frames)
    assert [time for part in parts for time in part.times] == pytest.approx([number / 10 for number in range(20)])
    assert [part.end for part in parts] == pytest.approx([0.7, 1.4, 2.0])
    assert video.read(tmp_path / "clip.mp4", (24, 24)).repeated == whole.repeated


def test_large_pictures_come_in_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write(tmp_path / "clip.mp4", film(6), 10)
    monkeypatch.setattr(pictures, "CHUNK_BYTES", 2 * 48 * 64 * 3)
    assert [len(part.frames) for part in video.frames(tmp_path / "clip.mp4", (24, 24))] == [2, 2, 2]


def test_a_picture_narrower_than_its_memory_is_read_without_what_is_beside_it(tmp_path: Path) -> None:
    video.write(tmp_path / "clip.mp4", film(5, 32, 46), 10)  # lines of memory are multiples of 32 pixels
    assert torch.equal(video.read(tmp_path / "clip.mp4", (32, 46)).frames, truth(tmp_path / "clip.mp4"))


@pytest.mark.parametrize(
    ("codec", "form", "pixels"),
    [("mjpeg", "avi", "yuvj420p"), ("mpeg4", "avi", "yuv420p"), ("libx264", "matroska", "yuv420p")],
)
def test_pictures_whose_size_changes_are_told_and_each_is_fitted(tmp_path: Path, codec, form, pixels) -> None:
    path, sizes = tmp_path / "film", ((48, 64), (64, 96))
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        (stream.height, stream.width), stream.pix_fmt = sizes[0], pixels
        for part, size in enumerate(sizes):
            for packet in packets(codec, size, pixels, 10, 5):
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 25), packet.is_keyframe
                copy.pts, copy.dts = packet.pts + 10 * part, packet.dts + 10 * part
                container.mux(copy)
    read = video.read(path, (48, 64))
    assert (read.sizes, len(read.frames)) == (sizes, 20)
    assert psnr(read.frames[:10], film(10)) > 25
    assert psnr(read.frames[10:], resizing.fit(film(10, 64, 96), (48, 64))) > 25


def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", "mpeg4", "mp4", film(100))  # a frame in twelve stands for itself
    start = 30
    with av.open(str(tmp_path / "whole.mp4")) as whole, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        tick = int(1 / (25 * stream.time_base))
        started = False
        for packet in whole.demux(stream):
            started |= packet.is_keyframe and packet.dts is not None and packet.dts >= 20 * tick
            if started and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - start * tick, packet.dts - start * tick
                packet.stream = copy
                cut.mux(packet)
    read = video.read(tmp_path / "cut.mp4", (48, 64))
    assert len(read.frames) == 100 - start
    assert read.declared > 100 - start
    assert torch.equal(read.frames, truth(tmp_path / "whole.mp4")[start:])


def test_repeated_frames_are_counted(tmp_path: Path) -> None:
    clip = film(10)[[0, 1, 1, 2, 2, 2, 3, 4, 5, 6]]
    encode(tmp_path / "film.mkv", "ffv1", "matroska", clip, "bgr0")
    assert video.read(tmp_path / "film.mkv", (48, 64)).repeated == pytest.approx(0.3)


# --- what is broken is named


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def music_with_a_cover(path: Path) -> None:
    with av.open(str(path), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=16000)
        cover = container.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1152
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())


def half(path: Path, codec: str, form: str, **options: str) -> None:
    encode(path, codec, form, film(60), **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt(path: Path, start: float) -> None:
    """Bytes flipped from this share of the pictures on; the index stays sound."""
    encode(path, "libx264", "mp4", film(200), movflags="faststart")
    content = bytearray(path.read_bytes())
    begin = content.find(b"mdat") + 900
    for place in range(begin + int(start * (len(content) - begin)), len(content), 31):
        content[place] ^= 0xFF
    path.write_bytes(content)


def header_only(path: Path) -> None:
    """What stands before the first frame of a fragmented mp4 file."""
    encode(path, "libx264", "mp4", film(3), movflags="frag_keyframe+empty_moov")
    content = path.read_bytes()
    path.write_bytes(content[: content.find(b"moof") - 4])


def unknown_codec(path: Path) -> None:
    """The letters that name the codec, lost."""
    encode(path, "libx264", "mp4", film(5))
    content = path.read_bytes()
    place = content.rfind(b"avc1")
    path.write_bytes(content[:place] + b"\0?\0?" + content[place + 4 :])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist; check the path"),
    "folder": (Path.mkdir, "is not a file; name a video file"),
    "zero bytes": (Path.touch, "is empty \\(0 bytes\\)"),
    "text": (lambda path: path.write_text("once upon a time\n" * 500), "is not a video; remove it"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "is not a video"),
    "sound": (sound, "has no video stream"),
    "index lost": (lambda path: half(path, "libx264", "mp4"), "is a truncated or damaged video"),
    "half, index first": (
        lambda path: half(path, "libx264", "mp4", movflags="faststart"),
        "is truncated: ",
    ),
    "half, fragments": (lambda path: half(path, "libx264", "mp4", movflags="frag_keyframe+empty_moov"), "is truncated"),
    "half, matroska": (lambda path: half(path, "libx264", "matroska"), "is truncated: 50% of its bytes are missing"),
    "music with a cover": (music_with_a_cover, "has no video stream"),
    "corrupt": (lambda path: corrupt(path, 0.0), "is damaged and cannot be decoded"),
    "corrupt near its end": (lambda path: corrupt(path, 0.9), "is damaged and cannot be decoded"),
    "codec lost": (unknown_codec, "is damaged or in an unknown codec"),
    "no frames": (header_only, "has no frames"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.mp4"
    make, words = BAD[kind]
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        video.read(path, (32, 32))
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=words):
        list(video.frames(path, (32, 32)))


def test_a_text_file_by_its_own_name_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("once upon a time\n" * 500)
    with pytest.raises(InputError, match="is not a video"):
        video.read(tmp_path / "notes.txt", (32, 32))


# --- resizing


def naive(clip: Tensor, height: int, width: int) -> Tensor:
    """Every new pixel the mean of the old ones under a triangle two new pixels wide, straight from the definition."""

    def weights(old: int, new: int) -> Tensor:
        reach = max(1.0, old / new)
        centres = (torch.arange(new) + 0.5) * old / new - 0.5
        share = (1 - (torch.arange(old)[None] - centres[:, None]).abs() / reach).clamp(min=0).double()
        return share / share.sum(1, keepdim=True)

    return weights(clip.shape[2], height) @ clip.double() @ weights(clip.shape[3], width).T


@pytest.mark.parametrize(
    ("size", "covered"),
    [((48, 64), (96, 128)), ((24, 32), (96, 128)), ((96, 128), (96, 128)), ((32, 32), (96, 96)), ((20, 60), (43, 128))],
)
def test_resizing_is_the_antialiased_mean_of_the_middle_within_a_grey_level(size, covered) -> None:
    noise = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    top, left = (96 - covered[0]) // 2, (128 - covered[1]) // 2
    middle = noise[..., top : top + covered[0], left : left + covered[1]]
    assert (resizing.fit(noise, size).double() - naive(middle, *size)).abs().max() < 1.6


def test_a_frame_of_the_right_size_is_untouched() -> None:
    noise = torch.randint(0, 256, (2, 3, 31, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resizing.fit(noise, (31, 40)), noise)


@pytest.mark.parametrize(("shape", "size"), [((40, 100), (20, 20)), ((100, 40), (20, 20)), ((60, 61), (20, 50))])
def test_the_crop_is_the_middle_of_the_picture(shape: tuple[int, int], size: tuple[int, int]) -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 200, shape[0]), torch.linspace(0, 200, shape[1]), indexing="ij")
    clip = torch.stack([rows, columns, rows]).round().to(torch.uint8)[None]
    fitted = resizing.fit(clip, size).double()
    assert fitted.shape[-2:] == size
    assert fitted.mean((0, 2, 3)) == pytest.approx([100, 100, 100], abs=2.5)


def test_a_fine_pattern_becomes_grey_rather_than_stripes() -> None:
    stripes = (255 * (torch.arange(128) % 2)).to(torch.uint8).expand(1, 3, 128, 128)
    inner = resizing.fit(stripes, (16, 16))[..., 1:-1].double()
    assert (inner - 127.5).abs().max() < 2


# --- real recordings


def test_real_recordings_are_read_whole() -> None:
    if not DROID.is_dir():
        pytest.skip("the recordings of DROID are not beside the project")
    paths = sorted(DROID.rglob("*.mp4"))
    assert {path.suffix for path in paths} <= video.SUFFIXES
    for path in paths[::150]:
        read = video.read(path, (64, 64))
        assert read.frames.shape == (read.declared, 3, 64, 64)
        assert read.declared == round(read.duration * read.fps)
        assert read.repeated < 0.25
        assert 5 < read.frames.double().std() < 128
