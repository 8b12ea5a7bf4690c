"""Speed and memory of a training run: step rate, waiting for data, matmul peak, memory peak, out-of-memory errors.

Activation checkpointing saves memory: activations are recomputed in the backward pass instead of being stored.
"""

import functools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from components.foundation import allocator
from components.foundation.errors import InputError
from components.training.optimizer import RecipeConfig


class Clock:
    """Measures the step rate over an interval, and the share of time spent waiting for data. Pauses do not count."""

    def __init__(self) -> None:
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the `with` block as waiting for data, and the block as one step."""
        start = time.perf_counter()
        yield
        self._steps += 1
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the `with` block from the interval."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def lap(self) -> dict[str, float]:
        """Return the steps per second and the share of time spent waiting for data, and start a new interval."""
        elapsed = time.perf_counter() - self._start
        rates = {"steps_per_second": self._steps / elapsed, "data_wait": self._waited / elapsed}
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0
        return rates


@functools.cache  # half a second at most, once in a process
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest measured FLOP/s of matrix products on this device in this dtype."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, end = math.inf, time.perf_counter() + 0.5
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def memory_peak(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of tensors on a GPU, of the whole process on other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return allocator.peak_memory()


@contextmanager
def explain_out_of_memory(recipe: RecipeConfig, clips: int, step: int) -> Iterator[None]:
    """Turn out-of-memory errors of a step on `clips` clips into an InputError that names the setting to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out_of_memory and "can't allocate memory" not in str(error):  # the message of torch's CPU allocator
            raise
        micro_batch = min(clips, recipe.micro_batch or clips)
        advice = f"set recipe.micro_batch to {micro_batch // 2}; the batch remains {recipe.batch} clips"
        if micro_batch == 1:
            advice = "use a smaller model or shorter clips"
        raise InputError(
            f"out of memory at step {step} with {micro_batch} clips in a worker's micro-batch "
            f"({_brief(error)}); {advice}"
        ) from None


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def checkpoint_activations(model: nn.Module) -> None:
    """Make every block in the model's ModuleLists store only its inputs. Losses and gradients do not change."""
    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                # blocks draw no random numbers, so there is no RNG state to preserve
                run = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
                block.forward = run
