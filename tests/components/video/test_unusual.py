"""Kinds of files that other readers show wrongly: all pictures are shown, and excerpts are parts of them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from components.video import excerpts
from components.video.seeking import packets
from tests.components.video.films import copied, encode, film, psnr, scanned, truth

SIZE = (64, 128)


def rewritten(source: Path, path: Path, change: Callable[[int, av.Packet], bytes]) -> None:
    """Copy a video, each packet with other bytes."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as made:
        stream = whole.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for number, packet in enumerate(whole.demux(stream)):
            if packet.size:
                other = av.Packet(change(number, packet))
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.is_keyframe, other.duration, other.stream = packet.is_keyframe, packet.duration, copy
                made.mux(other)


def is_part(path: Path, count: int) -> bool:
    """Whether excerpts are parts of the frames that all readers show."""
    facts, whole = scanned(path, SIZE)
    assert (facts.count, len(whole)) == (count, count)
    assert torch.equal(whole, scanned(path, SIZE, "pyav")[1])
    for first in (0, 1, count // 3, count // 2, count - 3):
        made = excerpts.part(path, SIZE, first, 3)
        if made.first != first or not torch.equal(made.frames, whole[first : first + 3]):
            return False
    last = excerpts.read(path, SIZE, None, 5)
    return last.first == count - 5 and torch.equal(last.frames, whole[-5:])


def test_frames_of_vp8_that_are_only_references_are_no_pictures(tmp_path: Path) -> None:
    encode(tmp_path / "film.webm", "libvpx", "webm", film(100, *SIZE), g="20")

    def hide(number: int, packet: av.Packet) -> bytes:
        content = bytearray(bytes(packet))
        content[0] &= ~0x10 if number % 7 == 3 and not packet.is_keyframe else 0xFF  # the bit show_frame
        return bytes(content)

    rewritten(tmp_path / "film.webm", tmp_path / "hidden.webm", hide)
    listing = packets.listed(tmp_path / "hidden.webm")
    assert (listing.doubt, len(listing.rows)) == (None, 100)
    assert is_part(tmp_path / "hidden.webm", len(listing.times))
    assert len(listing.times) < 90


def test_packets_of_mpeg4_that_hold_no_picture_are_not_counted(tmp_path: Path) -> None:
    encode(tmp_path / "film.avi", "mpeg4", "avi", film(100, *SIZE), g="12", bf="0")

    def empty(number: int, packet: av.Packet) -> bytes:
        if number % 10 != 5 or packet.is_keyframe:
            return bytes(packet)
        bits = f"0101{number % 25:05b}10011111"  # a predicted picture, its time, and that it is not coded
        return b"\0\0\1\xb6" + int(bits[:16], 2).to_bytes(2, "big")

    rewritten(tmp_path / "film.avi", tmp_path / "empty.avi", empty)
    count = len(truth(tmp_path / "empty.avi"))
    assert packets.listed(tmp_path / "empty.avi").doubt == "some packets may hold no picture"
    assert is_part(tmp_path / "empty.avi", count)


def test_key_frames_that_are_none_mislead_no_one(tmp_path: Path) -> None:
    encode(tmp_path / "film.avi", "h263p", "avi", film(60, *SIZE), g="12")
    with av.open(str(tmp_path / "film.avi")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    assert is_part(tmp_path / "film.avi", 60)


def test_key_frames_of_a_decoder_that_states_no_type_are_not_jumped_to(tmp_path: Path) -> None:
    encode(tmp_path / "film.mov", "qtrle", "mov", film(60, *SIZE), "gray", g="12")
    assert is_part(tmp_path / "film.mov", 60)


def test_raw_mpeg_video_has_an_even_rate(tmp_path: Path) -> None:
    encode(tmp_path / "film.m1v", "mpeg1video", "mpeg1video", film(60, *SIZE), g="12", bf="2")
    facts, _ = scanned(tmp_path / "film.m1v", SIZE)
    assert (facts.count, facts.fps, facts.steady) == (60, 25, True)
    assert is_part(tmp_path / "film.m1v", 60)


def test_a_video_whose_key_frame_an_edit_list_hides_begins_after_it(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", "libx264", "mp4", film(90, *SIZE), g="30")
    copied(tmp_path / "whole.mp4", tmp_path / "film.mp4", lambda number, packet: True, shift=20)
    facts, whole = scanned(tmp_path / "film.mp4", SIZE)
    assert torch.equal(whole, truth(tmp_path / "whole.mp4")[20:])
    assert facts.doubts == ()
    assert is_part(tmp_path / "film.mp4", 70)


def test_pictures_of_sixteen_bits_and_one_channel_keep_their_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 60_000, SIZE[1])[None].repeat(SIZE[0], 0)
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "gray16le"
        for number in range(20):
            picture = (levels + 250 * number).astype(np.uint16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray16le")))
        container.mux(stream.encode())
    assert is_part(tmp_path / "film.mkv", 20)
    _, whole = scanned(tmp_path / "film.mkv", SIZE)
    expected = torch.from_numpy(levels[None] + 250 * np.arange(20)[:, None, None]) / 257
    assert (whole.double() - expected[:, None]).abs().max() < 2


@pytest.mark.parametrize(("codec", "form", "pixels"), [("libvpx-vp9", "webm", "yuva420p"), ("qtrle", "mov", "argb")])
def test_transparent_pictures_show_their_colours(tmp_path: Path, codec: str, form: str, pixels: str) -> None:
    encode(tmp_path / "film", codec, form, film(40, *SIZE), pixels, g="10")
    assert is_part(tmp_path / "film", 40)
    assert psnr(scanned(tmp_path / "film", SIZE)[1], film(40, *SIZE)) > 30
