"""The device of a process, and the precision of its convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """Where a single process of ours computes: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def exactly() -> Iterator[None]:
    """Context in which cuDNN convolutions use full float32 precision instead of TF32 (10-bit mantissa)."""
    setting = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before
