"""A stage's command line, read off the signature of its `main`; its parameters, its MLflow run and its metrics file."""

import argparse
import errno
import fcntl
import hashlib
import inspect
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components import tracking
from components.config import Config, fingerprint, flatten, parse, plain, read_yaml
from components.errors import InputError
from pipeline import cost, environment
from pipeline.origins import Origins
from pipeline.progress import complain, say

Main = Callable[..., dict[str, float]]
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
DISK = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "your share of the disk is used up; make room",
    errno.EROFS: "the disk is read-only",
}
PRICES = "prices"  # no stage depends on it: what the hours of a run cost changes nothing that was made


def run(main: Main, *, rows: str | None) -> None:
    """Runs a stage from the command line and ends the process: status 0, 2 for bad input, 130 when interrupted.

    `rows` names the table of params.yaml of which this stage takes one row.
    """
    with command() as root:
        _run(main, rows, root)


@contextmanager
def command() -> Iterator[Path]:
    """What every command does: its environment before, and a sentence instead of a traceback after. Gives the root."""
    root = Path.cwd()
    environment.apply(root)
    environment.end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield root
    except InputError as error:
        complain(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = f" ({error.filename})" if error.filename else ""
        complain(f"error: {DISK[error.errno]}{place}; what was finished before is kept, and the same command goes on")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted; what was finished before is kept, and the same command goes on")
        sys.exit(130)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # so that everything is closed in order, as after Ctrl-C


class Experiment(Config):
    """A row of the table of experiments: the entry that it takes of each other table."""

    dataset: str
    autoencoder: str
    model: str
    recipe: str
    sampler: str
    search: str
    protocol: str


def _run(main: Main, rows: str | None, root: Path) -> None:
    stage = Path(inspect.getfile(inspect.unwrap(main))).stem
    paths = [name for name, keyword in inspect.signature(main).parameters.items() if keyword.annotation is Path]
    arguments = _parser(main, stage, rows, paths).parse_args()
    row = arguments.row if rows else None
    tables = read_yaml(arguments.params)
    params, prices = resolve(_schema(main), tables, rows, row), cost.prices(tables)
    name = f"{stage}@{row}" if row else stage
    out: Path = arguments.out
    folders = {path: getattr(arguments, path) for path in paths if path != "out"}
    for path, folder in folders.items():
        if not folder.exists():
            raise InputError(f"{name}: --{path} {folder} does not exist; run `dvc repro` to make what comes before")
    began, measure = time.perf_counter(), cost.Measure(cost.LEDGER.node, gpus=0)
    origins = Origins.of(root, folders, params)
    tags = {"stage": stage, "row": row or "", "params": fingerprint(params)}
    tags |= tracking.provenance(root) | origins.tags()
    with (
        alone(root / ".state" / "locks" / f"{name}.lock", name),
        tracking.run(name, root=root, tags=tags, parameters=flatten(plain(params))) as log,
    ):
        say(f"{name}: begins")
        origins.log(log)
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        metrics = main(params, **folders, out=partial, **({"log": log} if _logs(main) else {}))
        _replace(partial, out)
        origins.record(out, name, params, tags, log)
        _write_metrics(root / "metrics" / stage / f"{row or stage}.json", metrics)
        seconds = time.perf_counter() - began
        bill = cost.LEDGER.bill(measure.use(), cost.gpus_here(), seconds)
        log.metrics({**metrics, "stage_seconds": seconds, **bill, **cost.paid(bill, prices)})
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        say(f"{name}: done in {seconds:.0f} s ({numbers})\n  used {cost.words(bill, prices)}")
        say(f"  outputs {out}\n  MLflow run {log.link}")


@contextmanager
def alone(lock: Path, name: str) -> Iterator[None]:
    """No other process of this machine is in a block with the same lock. Raises InputError if one is."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go when the process ends, however it ends
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{name} is already being run by process {file.read().strip()}; wait for its end, or end it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def code() -> str:
    """A hash of all that stages are composed of: what was begun by other code is not gone on with."""
    files = sorted((Path(__file__).parents[1] / "components").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def resolve(schema: type[Config], tables: Mapping[str, Any], rows: str | None, row: str | None) -> Any:
    """The parameters of a stage for one row: each field is the entry that the row names in the field's table.

    A field of the row's own table is the row itself, and a field named like a table is that table. Raises InputError
    for unknown tables, rows and entries.
    """
    for table in tables:
        if table not in (*TABLES, PRICES):
            raise InputError(f"params.yaml: unknown table {table}; the tables are {', '.join((*TABLES, PRICES))}")
    where = f"params.yaml: {rows}.{row}" if rows else "params.yaml"
    entry = _entry(tables, rows, row, "params.yaml") if rows else {}
    if rows == "experiments":
        entry = plain(parse(Experiment, entry if isinstance(entry, dict) else {}, where=where))
    return parse(
        schema, {field: _field(tables, field, rows, entry, where) for field in schema.model_fields}, where=where
    )


def _field(tables: Mapping[str, Any], field: str, rows: str | None, entry: Any, where: str) -> Any:
    table = plural(field)
    if field in TABLES:
        return _table(tables, field)
    if table == rows:
        return entry
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}; it must be a mapping of choices")
    return _entry(tables, table, entry.get(field), f"{where}.{field}")


def plural(field: str) -> str:
    """The table that holds the entries of a field."""
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


def _logs(main: Main) -> bool:
    return "log" in inspect.signature(main).parameters


def _parser(main: Main, stage: str, rows: str | None, paths: list[str]) -> argparse.ArgumentParser:
    description = (inspect.getdoc(main) or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m pipeline.{stage}", description=description)
    if rows:
        parser.add_argument("--row", required=True, metavar="NAME", help=f"an entry of the table {rows} in params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: params.yaml")
    for path in paths:
        parser.add_argument(f"--{path.replace('_', '-')}", dest=path, type=Path, required=True, metavar="PATH")
    return parser


def _replace(partial: Path, out: Path) -> None:
    """The finished folder takes the place of the old one; until here the old one was whole."""
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def _write_metrics(path: Path, metrics: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.rename(path)
