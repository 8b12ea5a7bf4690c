"""Memory that tensors gave back serves the next ones, under glibc; elsewhere nothing changes.

glibc returns large blocks to the system when they are freed and asks for them anew, and the system fills every page
with zeros first: up to a fifth of the CPU time of a training step whose tensors are large. The price is holes in the
heap: a process takes a tenth more than it would otherwise.
"""

import ctypes
import os
import sys
from typing import Final

_SETTINGS: Final = {  # the variable that is read when a process starts, mallopt's number of the same, the value
    "MALLOC_ARENA_MAX": (-8, 1),  # the heaps of single threads cannot hold large blocks
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
}
VARIABLES: Final = {name: str(value) for name, (_, value) in _SETTINGS.items()}  # for processes that are to be started


def keep() -> None:
    """For this process and the threads that begin after; what the user's shell says of it is kept."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, (option, value) in _SETTINGS.items():
        if mallopt is not None and name not in os.environ:
            mallopt(option, value)


def give_back() -> None:
    """What serves no tensor now goes back to the system, for one who measures what is held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
