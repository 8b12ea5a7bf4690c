"""Frames at a fixed rate are the newest pictures at their times."""

from pathlib import Path

import pytest
import torch

from components.video.rate import FixedRate
from tests.components.video.films import encode, film, scanned


def chosen(fps: float, times: list[float], end: float, parts: int = 3) -> list[int]:
    """The numbers of the pictures that are shown."""
    rate, found, times = FixedRate(float(fps)), [], [float(time) for time in times]
    pictures = torch.arange(len(times), dtype=torch.uint8)[:, None, None, None]
    for begin in range(0, len(times), parts):
        found += list(rate.take(pictures[begin : begin + parts], times[begin : begin + parts]))
    return torch.cat([*found, *rate.finish(end)]).flatten().tolist()


def test_a_frame_is_the_newest_picture_at_its_time() -> None:
    assert chosen(10, [0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24], 0.28) == [0, 2, 5]
    assert chosen(10, [0, 0.25, 0.3], 0.5) == [0, 0, 0, 2, 2]
    assert chosen(25, [n / 25 for n in range(7)], 7 / 25) == list(range(7))


def test_times_that_a_container_rounded_to_milliseconds_repeat_and_skip_nothing() -> None:
    for fps in (30, 24, 60, 29.97):
        times = [round(number / fps, 3) for number in range(200)]
        assert chosen(fps, times, round(200 / fps, 3)) == list(range(200)), fps


def test_any_number_of_pictures_at_a_time_gives_the_same_frames() -> None:
    times = [0, 0.03, 0.2, 0.21, 0.22, 0.9, 1.4]
    assert len({tuple(chosen(12, times, 1.5, parts)) for parts in (1, 2, 3, 7)}) == 1


@pytest.mark.parametrize("reader", ["auto", "pyav"])
@pytest.mark.parametrize(("codec", "form"), [("libx264", "mp4"), ("libx264", "matroska"), ("mpeg4", "avi")])
def test_files_of_any_rate_give_the_same_number_of_frames_a_second(tmp_path: Path, codec, form, reader) -> None:
    for rate in (25, 50):
        encode(tmp_path / "film", codec, form, film(2 * rate, 64, 128), rate=rate)
        facts, frames = scanned(tmp_path / "film", (64, 128), reader, fps=10.0)
        _, whole = scanned(tmp_path / "film", (64, 128), reader)
        assert (facts.count, facts.fps) == (20, rate)
        assert facts.reader == ("decord" if reader == "auto" else "pyav")
        if rate == 50:
            assert torch.equal(frames, whole[::5])


def test_a_picture_that_rests_fills_its_time(tmp_path: Path) -> None:
    times = [0, 40, 80, 2000, 2040]
    encode(tmp_path / "film", "libx264", "matroska", film(5, 64, 128), milliseconds=times, bf="0")
    _, whole = scanned(tmp_path / "film", (64, 128))
    _, frames = scanned(tmp_path / "film", (64, 128), fps=10.0)
    assert torch.equal(frames[:21], whole[[0] + [2] * 19 + [3]])
