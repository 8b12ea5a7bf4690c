import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.foundation import allocator

ROOT = Path(__file__).parents[3]
FAULTS = """
import resource, torch


def rounds(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        blocks = [torch.empty(2**24).fill_(1) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


rounds(10)  # until the heap has found its shape
print(rounds(10))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc, whose memory it is about")
@pytest.mark.parametrize("way", ["the call", "the variables"])
def test_memory_that_was_given_back_serves_the_next_tensors(way: str) -> None:
    call = "from components.foundation import allocator\nallocator.keep()\n" if way == "the call" else ""
    kept = {} if call else allocator.VARIABLES
    shell = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

    def faults(code: str, **more: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code], env=shell | more, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    pages = 10 * 3 * 2**26 // 4096  # what ten rounds fill
    assert faults(FAULTS) > 0.9 * pages
    assert faults(call + FAULTS, **kept) < 0.2 * pages


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_the_peak_of_memory_is_in_mebibytes_where_the_system_counts_bytes_too(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    usage = SimpleNamespace(ru_maxrss=3 * unit)
    monkeypatch.setattr(allocator.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(allocator.sys, "platform", system)
    assert allocator.peak_memory() == 3
