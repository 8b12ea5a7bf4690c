"""Read the CSV files of users without losing a value, and write the CSV files that stages read."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from components.datasets.written.names import read_text
from components.foundation.errors import InputError

_OTHERS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}  # what programs write instead of commas


class Reader:
    """Reader of a CSV file whose first line holds the column names."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        self.columns = tuple(column.strip() for column in self._next() or ())

    def lines(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, values by column) of each line below the header; blank lines are skipped.

        Raises InputError if a line has more or fewer values than there are columns, or a misplaced quotation mark.
        """
        while (values := self._next()) is not None:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(self.columns):
                raise InputError(
                    f"{self.path}, line {self.number} has {len(values)} values for the {len(self.columns)} columns "
                    f"{','.join(self.columns)}; put each value that holds a comma in double quotes"
                )
            yield self.number, dict(zip(self.columns, values, strict=True))

    def lacks(self, needed: str) -> InputError:
        """Return the error for a file that lacks columns; `needed` names the required columns."""
        header = ",".join(self.columns)
        other = next((name for sign, name in _OTHERS.items() if sign in header and len(self.columns) == 1), None)
        advice = "correct that line" if other is None else f"separate the values by commas, not by {other}"
        return InputError(f"{self.path} needs {needed}, but its first line is {header or 'empty'}; {advice}")

    def _next(self) -> list[str] | None:
        self.number = self._rows.line_num + 1  # of the first line, if a quoted value spans several
        try:
            return next(self._rows, None)
        except csv.Error as error:
            raise InputError(
                f"{self.path}, line {self.number} is not valid CSV ({error}); put a value with quotation "
                "marks or line breaks in double quotes, and double each quotation mark within it"
            ) from None


def read(path: Path, setting: str) -> Reader:
    """Open a user's CSV file in UTF-8 or UTF-16. `setting` is the name of the setting that names the file.

    Raises InputError if the file cannot be read as text, or if its first line is not valid CSV.
    """
    try:
        return Reader(path, read_text(path))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); put a CSV file there, or set {setting} to null"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a CSV file ({error}); replace it with a UTF-8 text file") from None


class _Writer(Protocol):
    def writerow(self, row: Iterable[Any], /) -> Any: ...
    def writerows(self, rows: Iterable[Iterable[Any]], /) -> Any: ...


class _UnixLines:
    r"""Ends each row of a `csv.writer` in `\n`. The writer's own rows end in `\r\n`: it then quotes `\r` and `\n`."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


@contextmanager
def writing(path: Path) -> Iterator[_Writer]:
    """Provide a CSV writer for a file; use it for tables that do not fit into memory."""
    with path.open("w", encoding="utf-8", newline="") as file:
        yield csv.writer(_UnixLines(file))


def to_csv(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return CSV text with a header line; Python's csv module reads back exactly the same values."""
    text = io.StringIO(newline="")
    writer = csv.writer(_UnixLines(text))
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
