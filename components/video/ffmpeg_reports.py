"""Detect whether FFmpeg reports damage while decord decodes.

decord returns a damaged picture without an error. Its FFmpeg only prints a line to standard error. Standard error of
the process is therefore redirected to a file during decoding; afterwards the lines of other writers are printed.
"""

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final

_STDERR: Final = 2
_LINE: Final = re.compile(rb"^\[[^\]\n]+ @ 0x[0-9a-f]+\].*\n?", re.MULTILINE)  # a line of FFmpeg
_LOCK: Final = threading.Lock()
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
