"""Memory of this process: its peak, and settings of glibc's allocator that keep freed memory for the next tensors.

The settings do nothing on other systems.

By default glibc returns large freed blocks to the system and requests them again, and the system zeroes every page
first. With large tensors this takes up to a fifth of a training step's CPU time. The price of keeping the memory is
fragmentation: a process takes about a tenth more.
"""

import ctypes
import os
import resource
import sys
from typing import Final

_SETTINGS: Final = {  # environment variable, read at process start -> (option number for mallopt, value)
    "MALLOC_ARENA_MAX": (-8, 1),  # one arena, because per-thread arenas cannot hold large blocks
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
}
# environment variables for new processes
VARIABLES: Final = {name: str(value) for name, (_, value) in _SETTINGS.items()}


def keep() -> None:
    """Apply the settings to this process and its future threads. Environment variables of the user take precedence."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for name, (option, value) in _SETTINGS.items():
        if mallopt is not None and name not in os.environ:
            mallopt(option, value)


def give_back() -> None:
    """Return unused memory to the system, so that a measurement counts only memory in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_memory() -> float:
    """Return the peak memory of this process so far in MiB. The system counts KiB, on macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
