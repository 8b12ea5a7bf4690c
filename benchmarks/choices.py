"""What is measured: models, recipes and samplers out of the params files, the rest from the command line."""

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
from components import heap
from components.config import Config, parse, read_yaml
from components.errors import InputError

ROOT = Path(__file__).parents[1]
SIZES = {"default": ROOT / "params.yaml", "bair": ROOT / "presets" / "bair.yaml"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product tells the machine's rate

C = TypeVar("C", bound=Config)


def entry(size: str, kind: type[C], name: str, row: str) -> C:
    """One entry of a table of this size's params file. Raises InputError where there is none."""
    path = SIZES[size]
    content = read_yaml(path)
    if row not in content.get(name, {}):
        raise InputError(f"{path} has no entry {name}.{row}, which the benchmarks measure; add it")
    return parse(kind, content[name][row], where=f"{path}: {name}.{row}")


@dataclass(frozen=True, slots=True)
class Choices:
    """Where and how often a benchmark measures."""

    size: str
    device: torch.device
    dtype: str
    batches: tuple[int, ...]
    repeats: int
    quick: bool

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """The numbers that matrix products are computed in."""
        return torch.autocast(self.device.type, DTYPES[self.dtype], enabled=self.dtype != "float32")

    def rate(self) -> float:
        """Operations a second that matrix products reach on this device."""
        return clock.matmul_rate(self.device, DTYPES[self.dtype], SIDES[self.device.type], max(3, self.repeats))

    def facts(self, rate: float) -> dict[str, Value]:
        """What holds for a whole table of this run."""
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
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--size", choices=tuple(SIZES), default="default", help="params.yaml's model, or BAIR's")
    options.add_argument("--device", choices=tuple(SIDES), default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    options.add_argument("--batch", type=int, nargs="+", help="clips at a time; each number is measured")
    options.add_argument("--repeats", type=int, help="the median of so many is taken")
    options.add_argument("--quick", action="store_true", help="fewer rows and repeats")
    options.add_argument("--out", type=Path, help="a file for the table, .json or .md")
    return options


def read(given: argparse.Namespace, batches: tuple[int, ...]) -> Choices:
    """The choices on a command line; `batches` if it names none. Raises InputError for what cannot be measured."""
    table.check_out(given.out)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda, but torch finds no GPU; use --device cpu")
    repeats = (2 if given.quick else 5) if given.repeats is None else given.repeats
    chosen = tuple(given.batch or batches)
    if min((repeats, *chosen)) < 1:
        raise InputError(f"--repeats is {repeats} and --batch {chosen}; every number must be at least 1")
    return Choices(given.size, device, given.dtype, chosen, repeats, given.quick)


def run(options: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Table]) -> None:
    """A benchmark's command line: prints its table, writes the file, tells bad input in one sentence."""
    given = options.parse_args()
    heap.keep()  # as in every stage
    try:
        measured = measure(given)
    except InputError as error:
        options.error(str(error))
    table.show(measured)
    if given.out is not None:
        table.write(given.out, measured)
