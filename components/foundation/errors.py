"""InputError, the error type for messages to the user, and the conversion of disk errors to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class InputError(Exception):
    """Unusable input. The message says what is wrong, where, and what to do.

    Stages print the message and exit with status 2. Other exceptions are bugs and print a traceback.
    """


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an error of a full or read-only disk in this block to an InputError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written ({reason(error)}); free space or grant write access") from None


def reason(error: Exception) -> str:
    """Return the operating system's error message in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
