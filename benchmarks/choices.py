"""Settings of a benchmark: models, recipes and samplers from the params files, the rest from the command line."""

import argparse
import contextlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks import clock, table
from benchmarks.table import Table, Value
from components.foundation import allocator
from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.foundation.settings import presets

ROOT = Path(__file__).parents[1]
SIZES = {"kuka": ROOT / "presets" / "kuka.yaml", "bair": ROOT / "presets" / "bair.yaml"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIDES = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices of the matmul rate

C = TypeVar("C", bound=Config)


def entry(size: str, kind: type[C], name: str, row: str) -> C:
    """Return the entry `name.row` of the preset of this size. Raises InputError if the preset lacks it."""
    path = SIZES[size]
    content = presets.read(path)
    if row not in content.get(name, {}):
        raise InputError(f"{path} has no entry {name}.{row}, which the benchmarks need; add it")
    return parse(kind, content[name][row], where=f"{path}: {name}.{row}")


@dataclass(frozen=True, slots=True)
class Choices:
    """Device, precision, batch sizes and repeats of a benchmark."""

    size: str
    device: torch.device
    dtype: str
    batches: tuple[int, ...]
    repeats: int
    quick: bool

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """Return the autocast context of the chosen dtype."""
        return torch.autocast(self.device.type, DTYPES[self.dtype], enabled=self.dtype != "float32")

    def rate(self) -> float:
        """Measure the FLOP/s that matrix products reach on this device."""
        return clock.matmul_rate(self.device, DTYPES[self.dtype], SIDES[self.device.type], max(3, self.repeats))

    def facts(self, rate: float) -> dict[str, Value]:
        """Return the settings and hardware that are printed with the table; `rate` is in FLOP/s."""
        cuda = self.device.type == "cuda"
        cpu = f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
        return {
            "size": self.size,
            "device": torch.cuda.get_device_name(self.device) if cuda else cpu,
            "torch": torch.__version__,
            "dtype": self.dtype,
            "matmul GFLOP/s": rate / 1e9,
            "repeats": self.repeats,
        }


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--size", choices=tuple(SIZES), default="kuka", help="the preset whose model is measured")
    options.add_argument("--device", choices=tuple(SIDES), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    options.add_argument("--batch", type=int, nargs="+", help="batch sizes; each is measured")
    options.add_argument("--repeats", type=int, help="measurements per row; the median is shown")
    options.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    options.add_argument("--out", type=Path, help="file for the table, .json or .md")
    return options


def read(given: argparse.Namespace, batches: tuple[int, ...]) -> Choices:
    """Return the settings of a command line, with `batches` as default. Raises InputError for invalid values."""
    table.check_out(given.out)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda, but torch finds no GPU; use --device cpu")
    repeats = (2 if given.quick else 5) if given.repeats is None else given.repeats
    chosen = tuple(given.batch or batches)
    if min((repeats, *chosen)) < 1:
        raise InputError(f"--repeats is {repeats} and --batch is {chosen}; every value must be at least 1")
    return Choices(given.size, device, given.dtype, chosen, repeats, given.quick)


def run(options: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Table]) -> None:
    """Run a benchmark from the command line: print its table and write --out. Invalid input exits with its message."""
    given = options.parse_args()
    allocator.keep()  # same allocator settings as in every stage
    try:
        measured = measure(given)
    except InputError as error:
        options.error(str(error))
    table.show(measured)
    if given.out is not None:
        table.write(given.out, measured)
