"""A table of measurements on the terminal, as markdown and as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InputError

WIDE = 400  # characters
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of named values, and what holds for all of them; None is what was not measured."""

    title: str
    facts: dict[str, Value]
    columns: tuple[str, ...]
    rows: Sequence[dict[str, Value]]

    def plain(self) -> dict[str, Any]:
        """As JSON-like data."""
        return {"title": self.title, "facts": self.facts, "columns": list(self.columns), "rows": list(self.rows)}

    def markdown(self) -> str:
        """As a markdown table under its title and facts."""
        lines = [self.columns, ("---",) * len(self.columns), *self.cells()]
        facts = ", ".join(f"{name} {text(value)}" for name, value in self.facts.items())
        return f"## {self.title}\n\n{facts}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as texts."""
        return [tuple(text(row[column]) for column in self.columns) for row in self.rows]


def text(value: Value) -> str:
    """A value with about three digits; a dash for what was not measured."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4}f}"


def show(table: Table) -> None:
    """Prints the table: with rich where it is installed, else as markdown."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
    except ModuleNotFoundError:  # a machine that only computes
        print(table.markdown())
        return
    facts = ", ".join(f"{name} {text(value)}" for name, value in table.facts.items())
    shown = RichTable(title=table.title, caption=facts)
    for column in table.columns:
        shown.add_column(column, justify="left" if column == table.columns[0] else "right")
    for cells in table.cells():
        shown.add_row(*cells)
    widest = None if sys.stdout.isatty() else WIDE  # a file or a pipe has no edge that a table would have to fit into
    Console(width=widest).print(shown)


def check_out(out: Path | None) -> None:
    """Raises InputError for a file that is neither JSON nor markdown, before anything is measured."""
    if out is not None and out.suffix not in (".json", ".md"):
        raise InputError(f"--out is {out}; let its name end with .json or .md")


def write(out: Path, table: Table) -> None:
    """The table in a file, JSON or markdown by its ending."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(table.plain(), indent=2) + "\n" if out.suffix == ".json" else table.markdown()
    out.write_text(content, encoding="utf-8")
