"""Tables of measurements, printed in the terminal or written as Markdown or JSON."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.files import to_json

WIDE = 400  # characters per line
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values by column, and `facts` that hold for all rows; None means not measured."""

    title: str
    facts: dict[str, Value]
    columns: tuple[str, ...]
    rows: Sequence[dict[str, Value]]

    def plain(self) -> dict[str, Any]:
        """Return the table as JSON-compatible data."""
        return {"title": self.title, "facts": self.facts, "columns": list(self.columns), "rows": list(self.rows)}

    def markdown(self) -> str:
        """Return the table as Markdown, below its title and facts."""
        lines = [self.columns, ("---",) * len(self.columns), *self.cells()]
        facts = ", ".join(f"{name} {text(value)}" for name, value in self.facts.items())
        return f"## {self.title}\n\n{facts}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def cells(self) -> list[tuple[str, ...]]:
        """Return the rows as formatted texts."""
        return [tuple(text(row[column]) for column in self.columns) for row in self.rows]


def text(value: Value) -> str:
    """Format a value with about three digits; None gives a dash."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4}f}"


def show(table: Table) -> None:
    """Print the table with rich if it is installed, else as Markdown."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
    except ModuleNotFoundError:  # a minimal installation
        print(table.markdown())
        return
    facts = ", ".join(f"{name} {text(value)}" for name, value in table.facts.items())
    shown = RichTable(title=table.title, caption=facts)
    for column in table.columns:
        shown.add_column(column, justify="left" if column == table.columns[0] else "right")
    for cells in table.cells():
        shown.add_row(*cells)
    widest = None if sys.stdout.isatty() else WIDE  # files and pipes have no width that a table must fit
    Console(width=widest).print(shown)


def check_out(out: Path | None) -> None:
    """Raise InputError unless the file is .json or .md, before anything is measured."""
    if out is not None and out.suffix not in (".json", ".md"):
        raise InputError(f"--out is {out}, but its name must end with .json or .md")


def write(out: Path, table: Table) -> None:
    """Write the table as JSON or Markdown, by the suffix of the file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = to_json(table.plain(), indent=2) + "\n" if out.suffix == ".json" else table.markdown()
    out.write_text(content, encoding="utf-8")
