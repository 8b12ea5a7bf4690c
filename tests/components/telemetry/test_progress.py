import io
import re
import time

import pytest

from components.telemetry import progress
from components.telemetry.progress import Meter, complain, meter, say, track


def test_a_line_says_how_far_and_how_fast_and_how_long_still() -> None:
    shown = Meter("encode", 100, "clips", None)
    shown.began -= 10
    shown.update(1)
    shown.update(40, "loss 0.5")
    found = re.fullmatch(r"  encode: 40/100 clips, ([\d.]+) clips/s, (\d+) s left loss 0\.5", shown.line())
    assert found is not None, shown.line()
    assert float(found[1]) == pytest.approx(4.0, rel=0.05)
    assert int(found[2]) == pytest.approx(15, abs=1)


def test_slow_work_is_told_in_seconds_for_each() -> None:
    shown = Meter("train", 10, "steps", None)
    shown.began -= 10
    shown.update(1)
    shown.update(2)
    assert re.search(r"5(\.0\d*)? s each, 40 s left", shown.line()), shown.line()


def test_before_the_first_unit_no_speed_is_told() -> None:
    shown = Meter("search", 4, "trials", None)
    shown.began -= 10
    assert shown.line() == "  search: 0/4 trials"


def test_minutes_are_minutes() -> None:
    shown = Meter("train", 100, "steps", None)
    shown.began -= 100
    shown.update(1)
    assert re.search(r", 16[45] min \d\d s left", shown.line()), shown.line()


def test_resumed_work_is_not_counted_into_the_speed() -> None:
    shown = Meter("train", 1000, "steps", None)
    shown.update(900)
    shown.began -= 10
    shown.update(905)
    assert "905/1000 steps, 2" in shown.line()


def test_before_anything_is_done_there_is_no_time_left_to_tell() -> None:
    assert "left" not in Meter("encode", 10, "clips", None).line()


def test_finished_work_has_no_time_left() -> None:
    shown = Meter("encode", 2, "clips", None)
    shown.advance()
    shown.advance()
    assert "encode: 2/2 clips" in shown.line()
    assert "left" not in shown.line()


def test_advance_adds_and_keeps_the_note() -> None:
    shown = Meter("encode", 10, "clips", None)
    shown.update(1, "fine")
    shown.advance(3)
    assert shown.done == 4
    assert shown.line().endswith("fine")


def test_into_a_file_it_speaks_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with meter("encode", 3, "clips") as shown:
        shown.advance()
        assert capsys.readouterr().out == ""
        shown.spoken = time.perf_counter() - progress.QUIET_SECONDS - 1
        shown.advance()
        assert "encode: 2/3 clips" in capsys.readouterr().out
        shown.advance()
    assert "encode: 3/3 clips" in capsys.readouterr().out


def test_tracked_items_are_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "read", 3, "letters")) == ["a", "b", "c"]
    assert "read: 3/3 letters" in capsys.readouterr().out


def test_what_went_wrong_goes_elsewhere_than_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say("fine")
    complain("error: not fine")
    told = capsys.readouterr()
    assert told.out == "fine\n"
    assert told.err == "error: not fine\n"


def test_in_a_file_the_last_line_stands_once(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    assert list(track(range(2), "encode", 2, "clips")) == [0, 1]
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "  encode: 1/2 clips", "  encode: 2/2 clips"
    ]  # fmt: skip


def test_a_file_name_that_is_not_utf8_can_be_told(capsys):
    say("ü\udcff.mp4")
    complain("ü\udcff.mp4")
    assert capsys.readouterr() == ("ü\\udcff.mp4\n", "ü\\udcff.mp4\n")


def test_letters_that_the_terminal_does_not_have_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    say("caf\xe9")
    assert written.getvalue() == rb"caf\xe9" + b"\n"


def test_nothing_is_said_into_a_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    say("works")
