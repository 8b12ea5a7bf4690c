"""The names of the entries of params.yaml's tables, and the check that they are allowed.

A name becomes a key of DVC (`train@NAME`), an argument of a shell command, a folder, a file, and a part of the names of
MLflow runs and registered models.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from components.foundation.config import value
from components.foundation.errors import InputError

LONGEST: Final = 64
ALLOWED: Final = f"a letter (a to z), then at most {LONGEST - 1} letters, digits, - and _"
_NAME: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_-]{{0,{LONGEST - 1}}}")


def usable(name: str) -> bool:
    """Return whether a name has only allowed characters, and YAML and the command line read it as a string."""
    if not _NAME.fullmatch(name) or not isinstance(value(name), str):
        return False
    return name.lower() not in ("inf", "infinity", "nan")  # numbers in `dvc exp run -S`


def check(tables: Mapping[str, Any], file: str) -> None:
    """Raise InputError that lists all invalid names of entries, and names of one table that differ in case only."""
    problems = []
    for table, entries in tables.items():
        names: dict[str, str] = {}
        for name in entries if isinstance(entries, dict) else ():
            if not usable(name):
                problems.append(f"the name {_short(name)} in {table} is invalid; use {ALLOWED}, and no YAML keyword")
            elif (twin := names.setdefault(name.lower(), name)) != name:
                problems.append(
                    f"the names {twin} and {name} in {table} differ in case only, which some file systems ignore; "
                    "rename one of them"
                )
    if problems:
        raise InputError(f"{file}: {'; '.join(problems)}")


def _short(name: str) -> str:
    return repr(name) if len(name) <= LONGEST else f"{name[:LONGEST]!r}... of {len(name)} characters"
