"""Run a stage: its command line from the signature of `main`, its parameters, MLflow run, outputs and metrics file."""

import argparse
import errno
import fcntl
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from components.foundation.config import Config, fingerprint, flatten, parse, plain
from components.foundation.errors import InputError
from components.foundation.files import write_json
from components.foundation.settings import names, presets
from components.telemetry import tracking, usage
from components.telemetry.progress import complain, say
from components.telemetry.provenance import StageInputs
from pipeline.runtime import environment, watchdog

Main = Callable[..., dict[str, float]]
# takes the tables of params.yaml, the table of the stage's rows, the row, and the input folders; raises InputError
Check = Callable[[Mapping[str, Any], str | None, str | None, Mapping[str, Path]], None]
TABLES = (
    "simulations",
    "datasets",
    "autoencoders",
    "models",
    "recipes",
    "samplers",
    "protocols",
    "searches",
    "experiments",
    "ablations",
)
TRAINED_WITH = ("dataset", "autoencoder", "model", "recipe")  # fields of a row
RESUME = "finished work is kept; run the same command again to resume"
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is exceeded; free some space",
    errno.EROFS: "the disk is read-only",
}
USAGE = "usage"  # folder in data/ with each stage's usage and MLflow run; keyword of the stage that reads it
PRICES = "prices"  # table that no stage depends on, because prices change no output


def run(main: Main, *, rows: str | None, check: Check | None = None, headlines: Collection[str] = ()) -> None:
    """Run a stage from the command line. The process exits with 2 for bad input and 130 when interrupted.

    `rows` is the table of params.yaml from which the stage takes one row; None if it takes no row. `check` runs before
    `main`; it raises InputError if the row, or a row that depends on it, would fail. MLflow and data/usage get all
    metrics that `main` returns; the file for `dvc metrics` has the `headlines` among them, or all if none are given.
    """
    with command() as root:
        stage = Path(inspect.getfile(inspect.unwrap(main))).stem
        paths = [name for name, keyword in inspect.signature(main).parameters.items() if keyword.annotation is Path]
        arguments = _parser(main, stage, rows, paths).parse_args()
        row = arguments.row if rows else None
        tables = read_tables(arguments.params)
        params, prices = resolve(_schema(main), tables, rows, row), usage.prices(tables)
        name = f"{stage}@{row}" if row else stage
        out: Path = arguments.out
        folders = {path: getattr(arguments, path) for path in paths if path != "out"}
        for path, folder in folders.items():
            if not folder.exists():
                raise InputError(f"{name}: --{path} {folder} does not exist; run `dvc repro` to make it")
        if check is not None:
            check(tables, rows, row, folders)
        started, measure = time.perf_counter(), usage.Measure(usage.TOTAL.node, gpus=0)
        inputs = StageInputs.of(root, folders, params)
        tags = {"stage": stage, "row": row or "", "params": fingerprint(params)}
        tags |= tracking.provenance(root) | inputs.tags()
        of_row = settings_of(tables, row) if rows == "experiments" and row else None
        with (
            exclusive(root / ".state" / "locks" / f"{name}.lock", name),
            tracking.run(
                name, root=root, tags=tags, parameters={**(of_row or {}), **flatten(plain(params))}, row=of_row
            ) as log,
        ):
            say(f"{name}: begins")
            inputs.log(log)
            unfinished = out.with_name(f".{out.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            metrics = main(params, **folders, out=unfinished, **({"log": log} if _takes_log(main) else {}))
            _replace(unfinished, out)
            inputs.record(out, name, params, tags, log)
            shown = {name: value for name, value in metrics.items() if not headlines or name in headlines}
            write_json(root / "metrics" / stage / f"{row or stage}.json", shown, sort_keys=True)
            seconds = time.perf_counter() - started
            used = usage.TOTAL.metrics(measure.use(), usage.gpus_here(), seconds)
            cost = usage.cost(used, prices)
            log.scores(metrics)
            log.metrics({"stage_seconds": seconds, **used, **cost})
            if USAGE not in folders:  # a stage that reads this folder must not write to it
                entry = {"stage": stage, "row": row or "", "run": log.id, "ended": time.time(), "seconds": seconds}
                entry |= {**used, **cost, "tags": tags, "metrics": metrics}
                write_json(root / "data" / USAGE / stage / f"{row or stage}.json", entry, sort_keys=True)
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            say(f"{name}: done in {seconds:.0f} s ({numbers})\n  used {usage.summary(used, prices)}")
            say(f"  outputs {out}\n  MLflow run {log.link}")


@contextmanager
def command() -> Iterator[Path]:
    """Yield the project's root for the block of a command, with its environment set and its watchdog started.

    Exit with 2 and a message, without a traceback, after an InputError, a disk error, or if nobody reads the output;
    exit with 130 when interrupted.
    """
    root = Path.cwd()
    environment.apply(root)
    signal.signal(signal.SIGTERM, partial(_interrupt, watchdog.start()))
    try:
        yield root
    except InputError as error:
        complain(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        # otherwise Python would complain again when it flushes the output at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(f"error: the program that reads this output has ended; {RESUME}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        path = f" ({error.filename})" if error.filename else ""
        complain(f"error: {DISK_ERRORS[error.errno]}{path}; {RESUME}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain(f"interrupted; {RESUME}")
        sys.exit(130)


def _interrupt(watchdog_process: subprocess.Popen[bytes], number: int, frame: object) -> None:
    watchdog_process.terminate()  # otherwise it would kill this process soon after DVC, which may have got SIGTERM too
    raise KeyboardInterrupt  # so that all context managers exit, as after Ctrl-C


class Experiment(Config):
    """A row of the table `experiments`: the name of an entry in each other table."""

    dataset: str  # for the autoencoder and the training
    scored_on: str  # data set of the validation and test clips for scoring
    autoencoder: str  # entry of `autoencoders`
    model: str  # entry of `models`
    recipe: str  # entry of `recipes`, for the model
    start: str  # folder of the weights that the training starts from; presets/random-weights: random ones
    sampler: str  # entry of `samplers`, with which the search begins
    search: str  # entry of `searches`
    protocol: str  # entry of `protocols`


@contextmanager
def exclusive(lock: Path, name: str) -> Iterator[None]:
    """Hold a lock file for the block. Raise InputError if another process on this machine holds the lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when the process ends
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{name} is already being run by process {file.read().strip()}; wait for it to end, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def read_tables(path: Path) -> dict[str, Any]:
    """Return the tables of a params file or preset.

    Raise InputError if the file is invalid, or a name in it is not allowed.
    """
    tables = presets.read(path)
    names.check(tables, str(path))
    return tables


def resolve(schema: type[Config], tables: Mapping[str, Any], rows: str | None, row: str | None) -> Any:
    """Return the parameters of a stage: a value from the tables for each field of the schema.

    A field such as `model` is the entry of `models` that the row names. The field of the row's own table, `rows`, is
    the row itself. A field with the name of a table, such as `models`, is the whole table. Raise InputError for unknown
    tables, rows and entries.
    """
    for table in unknown(tables):
        raise InputError(f"params.yaml: {table}")
    where = f"params.yaml: {rows}.{row}" if rows else "params.yaml"
    entry = _entry(tables, rows, row, "params.yaml") if rows else {}
    if rows == "experiments":
        entry = plain(parse(Experiment, entry if isinstance(entry, dict) else {}, where=where))
    return parse(
        schema, {field: _field(tables, field, rows, entry, where) for field in schema.model_fields}, where=where
    )


def settings_of(tables: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Return the flat settings that a row of experiments is trained with, from the entries that it names.

    They are what each run of the row shows, so a missing entry is left out; the stage's schema is what checks them.
    """
    entry = _table(tables, "experiments")[row]
    found = {field: (tables.get(plural(field)) or {}).get(entry[field]) for field in TRAINED_WITH}
    return flatten({field: settings for field, settings in found.items() if isinstance(settings, dict)})


def _field(tables: Mapping[str, Any], field: str, rows: str | None, entry: Any, where: str) -> Any:
    table = plural(field)
    if field in TABLES:
        return _table(tables, field)
    if table == rows:
        return entry
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}; it must be a mapping that names one entry per table")
    return _entry(tables, table, entry.get(field), f"{where}.{field}")


def unknown(tables: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each unknown table."""
    known = (*TABLES, PRICES)
    return [
        f"unknown table {table}; the tables are {', '.join(known)}; correct its spelling, or move a YAML anchor to its "
        "first use"
        for table in tables
        if table not in known
    ]


def plural(field: str) -> str:
    """Return the name of the table for a field, such as `models` for `model`."""
    return "searches" if field == "search" else f"{field}s"


def _entry(tables: Mapping[str, Any], table: str, name: Any, where: str) -> Any:
    entries = _table(tables, table)
    if name not in entries:
        known = ", ".join(map(str, entries)) or "nothing"
        raise InputError(f"{where}: {table} has no entry {name!r}; it has {known}")
    return entries[name]


def _table(tables: Mapping[str, Any], table: str) -> dict[str, Any]:
    entries = tables.get(table)
    if not isinstance(entries, dict):
        raise InputError(f"params.yaml: the table {table} is missing; add it")
    return entries


def _schema(main: Main) -> type[Config]:
    schema: type[Config] = inspect.signature(main).parameters["params"].annotation
    return schema


def _takes_log(main: Main) -> bool:
    return "log" in inspect.signature(main).parameters


def _parser(main: Main, stage: str, rows: str | None, paths: list[str]) -> argparse.ArgumentParser:
    description, *_ = (inspect.getdoc(main) or stage).splitlines()  # python -OO drops docstrings
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.{stage}", description=description)
    if rows:
        parser.add_argument("--row", required=True, metavar="NAME", help=f"an entry of the table {rows} in params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: params.yaml")
    for path in paths:
        parser.add_argument(f"--{path.replace('_', '-')}", dest=path, type=Path, required=True, metavar="PATH")
    return parser


def _replace(finished: Path, out: Path) -> None:
    """Replace the old output folder by the finished one; a stage that fails earlier leaves the old folder unchanged."""
    shutil.rmtree(out, ignore_errors=True)
    finished.rename(out)
