"""Time and memory of a training: how fast it goes, what it waits for, what it holds, and what to lower."""

import functools
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from components.errors import InputError
from components.training.optimizer import RecipeConfig


class Clock:
    """Measures an interval of steps, and what of it was spent on waiting for data; pauses do not count."""

    def __init__(self) -> None:
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for the data of one step."""
        asked = time.perf_counter()
        yield
        self._steps += 1
        self._waited += time.perf_counter() - asked

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of the training steps."""
        asked = time.perf_counter()
        yield
        self._began += time.perf_counter() - asked

    def lap(self) -> dict[str, float]:
        """Steps a second and the share of time that data were waited for; a new interval begins."""
        elapsed = time.perf_counter() - self._began
        rates = {"steps_per_second": self._steps / elapsed, "data_wait": self._waited / elapsed}
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0
        return rates


@functools.cache  # half a second at most, once in a process
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that matrix products reach here at best, in these numbers."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, end = math.inf, time.perf_counter() + 0.5
    while time.perf_counter() < end or best == math.inf:
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def memory_peak(device: torch.device) -> float:
    """The most memory that was held at once so far, in MiB: of tensors on a GPU, of the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def enough_memory(config: RecipeConfig, clips: int, step: int) -> Iterator[None]:
    """Raises InputError that says what to lower, if memory does not suffice for a step on so many clips."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lost = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not lost and "can't allocate memory" not in str(error):  # the words of torch's allocator on a CPU
            raise
        held = min(clips, config.micro_batch or clips)
        advice = f"set recipe.micro_batch to {held // 2}, which leaves the batch at {config.batch}"
        if held == 1:
            advice = "use a smaller model or shorter clips"
        raise InputError(
            f"out of memory at step {step}, with {held} clips at once on a worker ({_brief(error)}); {advice}"
        ) from None


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
