"""Read JSON files, write files atomically, and hash files."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from components.foundation.errors import InputError, writing

AGAIN: Final = "run `dvc repro` to regenerate it"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping. Raises InputError if it is missing, damaged or holds another type."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({brief(error)}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping, not {type(content).__name__}; {AGAIN}")
    return content


def brief(error: Exception) -> str:
    """Return an error message as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def to_json(content: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return plain data as valid JSON. NaN and the infinities, which JSON does not have, become null."""
    return json.dumps(_finite(content), indent=indent, sort_keys=sort_keys, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Any, *, indent: int | None = 2, sort_keys: bool = False) -> str:
    """Write plain data as `to_json` does, atomically, and return the file's sha256.

    Raises InputError if the file cannot be written.
    """
    return write_text(path, to_json(content, indent=indent, sort_keys=sort_keys) + "\n")


def write_text(path: Path, text: str) -> str:
    """Write a UTF-8 text file atomically and return its sha256. Raises InputError if it cannot be written."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file atomically and return its sha256. Raises InputError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(data)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
