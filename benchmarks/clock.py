"""Time, peak memory and matmul rate of a device."""

import sys
import time
from pathlib import Path

import torch

from components.foundation import allocator

PROCESS = Path("/proc/self")


def now(device: torch.device) -> float:
    """Synchronise the device and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Reset the peak memory that `peak` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        allocator.give_back()
        (PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak of the resident set


def peak(device: torch.device) -> float | None:
    """Return the peak memory in MB since `forget_peak`: of tensors (GPU) or of the process (CPU); None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform != "linux":
        return None
    lines = (line.split() for line in (PROCESS / "status").read_text().splitlines())
    return next(float(words[1]) for words in lines if words[0] == "VmHWM:") * 1024 / 1e6


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """Return the best FLOP/s over `repeats` products of two square matrices with `side` rows."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):  # the first product is a warm-up
        began = now(device)
        a @ b
        seconds.append(now(device) - began)
    return 2 * side**3 / min(seconds[1:])
