"""Detect whether FFmpeg reports damage while a file is decoded.

decord returns a damaged picture without an error. Its FFmpeg only prints a line to standard error, and so does decord
itself where it repeats a picture in place of another one. Standard error of the process is therefore redirected to a
file during decoding; afterwards the lines of other writers are printed. PyAV counts the errors of its own FFmpeg, which
do not all raise an exception.
"""

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final, ParamSpec, TypeVar

import av

_STDERR: Final = 2
# a line of FFmpeg, or decord's line about repeated pictures
_LINE: Final = re.compile(rb"^\[(?:[^\]\n]+ @ 0x[0-9a-f]+\]|[\d:]+\] \S*/video_reader\.cc).*\n?", re.MULTILINE)
_LOCK: Final = threading.Lock()
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_open: list[tuple[IO[bytes], int, list[object]]] = []  # at most one: the file, the real standard error, and its users


@contextmanager
def reports() -> Iterator[Callable[[], bool]]:
    """Redirect standard error, and provide a function that returns whether FFmpeg has printed a report since.

    If several threads use this at the same time, a report counts for all of them.
    """
    user = object()
    with _LOCK:
        if not _open:
            _open.append((tempfile.TemporaryFile(), os.dup(_STDERR), []))  # noqa: SIM115 (closed by the last user)
            os.dup2(_open[0][0].fileno(), _STDERR)
        file, real, users = _open[0]
        users.append(user)
        begin = os.fstat(file.fileno()).st_size

    def reported() -> bool:
        size = os.fstat(file.fileno()).st_size
        return size > begin and _LINE.search(os.pread(file.fileno(), size - begin, begin)) is not None

    try:
        yield reported
    finally:
        with _LOCK:
            users.remove(user)
            if not users:
                _open.clear()
                os.dup2(real, _STDERR)
                if others := _LINE.sub(b"", os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)):
                    os.write(_STDERR, others)
                os.close(real)
                file.close()


class Errors:
    """Counts the errors that PyAV's FFmpeg reports, and keeps the last one."""

    def __init__(self) -> None:
        self.count, self.last = 0, ""

    def during(self, call: Callable[_Given, _Result], *given: _Given.args, **named: _Given.kwargs) -> _Result:
        """Return the result of a call, and count the errors that are reported meanwhile."""
        level, (before, _) = av.logging.get_level(), av.logging.get_last_error()
        av.logging.set_level(av.logging.PANIC)  # print nothing; errors are counted at any level
        try:
            return call(*given, **named)
        finally:
            av.logging.set_level(level)
            after, error = av.logging.get_last_error()
            if error is not None and after > before:
                self.count, self.last = self.count + after - before, error[2].strip()
