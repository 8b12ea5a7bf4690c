"""Progress of long tasks: units done, speed and remaining time; and lines of text for the user."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
QUIET_SECONDS = 20.0  # between two lines if the output is no terminal


class Meter:
    """Progress of one task: a progress bar in a terminal, otherwise a printed line every QUIET_SECONDS."""

    def __init__(self, label: str, total: int, unit: str, bar: Progress | None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.first, self.note = 0, 0, ""
        self.began = self.spoken = time.perf_counter()
        self._bar = bar
        self._task: TaskID | None = None if bar is None else bar.add_task(label, total=total, speed="")

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units; `note` is shown after the speed."""
        if self.done == 0 and done > 1:
            # resumed: units of an earlier run do not count for the speed
            self.first, self.began = done, time.perf_counter()
        self._show(done, note)

    def _show(self, done: int, note: str) -> None:
        self.done, self.note = done, note or self.note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, speed=f"{self._speed()} {self.note}".strip())
        elif self.done < self.total and time.perf_counter() - self.spoken > QUIET_SECONDS:
            self.spoken = time.perf_counter()  # `meter` prints the last line
            print(self.line(), flush=True)

    def advance(self, count: int = 1) -> None:
        """Add `count` finished units."""
        self._show(self.done + count, "")

    def line(self) -> str:
        """Return the progress as one line of text."""
        rate = self._rate()
        left = f", {_duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        speed = f", {self._speed()}" if rate else ""
        return f"  {self.label}: {self.done}/{self.total} {self.unit}{speed}{left} {self.note}".rstrip()

    def _rate(self) -> float:
        return (self.done - self.first) / max(1e-9, time.perf_counter() - self.began)

    def _speed(self) -> str:
        rate = self._rate()
        if not rate:
            return ""
        return f"{rate:.3g} {self.unit}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


@contextmanager
def meter(label: str, total: int, unit: str) -> Iterator[Meter]:
    """Provide a meter for a task of `total` units, and show its progress during the block."""
    console = Console()
    if not console.is_terminal:
        quiet = Meter(label, total, unit, None)
        yield quiet
        print(quiet.line(), flush=True)
        return
    columns = (
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, redirect_stdout=True, redirect_stderr=True) as bar:
        yield Meter(label, total, unit, bar)


def track(items: Iterable[T], label: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items, and show their number as progress."""
    with meter(label, total, unit) as shown:
        for item in items:
            yield item
            shown.advance()


def say(text: str) -> None:
    """Print text to standard output."""
    print(_printable(text, getattr(sys.stdout, "encoding", None)), flush=True)


def complain(text: str) -> None:
    """Print text to standard error."""
    print(_printable(text, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


def _printable(text: str, encoding: str | None) -> str:
    """Return text that a stream of this encoding takes: letters it lacks, and bytes that are not UTF-8, are escaped.

    A closed standard stream has no encoding.
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
