"""Convert params.yaml to frozen, strict pydantic models and back. No value has a default in the code.

YAML is read and written by the library and in the version (1.2) that DVC uses, so that a file means the same to both:
`5e-05` is a number, and `no`, `on` and `1:30` are text.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from components.foundation.errors import InputError

LARGEST: Final = 2**53


class Config(BaseModel):
    """Base of all configs: frozen, strict and without unknown keys. A config is defined beside the class it builds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


C = TypeVar("C", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises InputError if the file is missing, unreadable or not a mapping, or if a key of a table is not text or is
    written twice.
    """
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run from the project's folder or name another file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read as text ({error}); name a YAML file") from None
    except DuplicateKeyError as error:
        raise InputError(f"{path} has a key twice in one table ({_reason(error)}); remove one of the two") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML ({_reason(error)}); correct that line") from None
    if content is None:
        raise InputError(f"{path} is empty; restore it, or copy a file of presets/ over it")
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping of tables, not {type(content).__name__}; correct the file")
    _check_keys(path, content, "", (), set())
    return content


def value(text: str) -> Any:
    """Parse a command-line value as YAML: number, true, false, null, list or string. Raises InputError if invalid."""
    try:
        return _load(text)
    except (YAMLError, ValueError, RecursionError):
        raise InputError(f"{text!r} is not a valid value; write a number, true, false, null or a string") from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return a mapping as YAML text, as DVC writes it, with the keys in their order in the mapping."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(json.loads(json.dumps(content)), text)
    return text.getvalue()


def _load(text: str) -> Any:
    return YAML(typ="safe").load(text)  # DVC's own call


def _check_keys(path: Path, content: Any, name: str, parents: tuple[Any, ...], checked: set[int]) -> None:
    """Raise InputError if a key is not text, or if an alias puts a table or list into itself.

    `checked` holds the ids of the values that were checked, because aliases may repeat a value exponentially often.
    """
    if not isinstance(content, dict | list) or (id(content) in checked):
        return
    if any(content is parent for parent in parents):
        raise InputError(f"{path}: {name} is an alias of a table or list that contains it; write its values out")
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(content, dict) and not isinstance(key, str):
            kind = "null" if key is None else f"{type(key).__name__} {key}"
            raise InputError(f"{path}: a key of {name or 'the file'} is {kind}, not text; choose another name")
        inner = f"{name}[{key}]" if isinstance(content, list) else f"{name}.{key}" if name else str(key)
        _check_keys(path, value, inner, (*parents, content), checked)
    checked.add(id(content))


def _reason(error: Exception) -> str:
    """Return the reason of a YAML error in one line: what is wrong, and in which line of the file."""
    if not isinstance(error, MarkedYAMLError) or error.problem is None:
        return " ".join(str(error).split())[:200]
    place = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
    return f"{place}{' '.join(error.problem.split())}"


def parse(model: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """Return a config parsed from plain data; errors begin with `where`, such as `params.yaml: models.small`.

    Raises InputError that names the full path of each wrong key, its value and the allowed values.
    """
    if large := _too_large(data):
        raise InputError(f"{where}: {'; '.join(large)}")
    try:  # JSON mode: strict, except that a YAML list may become a tuple
        return model.model_validate_json(json.dumps(data, allow_nan=False))
    except ValidationError as error:
        problems = "; ".join(_sentence(problem, data) for problem in error.errors(include_url=False))
        raise InputError(f"{where}: {problems}") from None
    except (TypeError, ValueError):
        raise InputError(f"{where}: {'; '.join(_unusable(data))}") from None


def _too_large(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each integer that has no exact float, which MLflow and JSON programs store."""
    return [
        f"{path} is {value}; an integer must be at most {LARGEST} in size"
        for path, value in flatten(data).items()
        if isinstance(value, int) and abs(value) > LARGEST
    ]


def _unusable(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that JSON cannot hold: infinity, NaN, or a type such as a date."""
    sentences = []
    for path, value in flatten(data).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            shown = value if isinstance(value, float | list) else f"a {type(value).__name__}, {value}"
            sentences.append(f"{path} is {shown}; write a finite number, true, false, null, text in quotes or a list")
    return sentences


def _sentence(problem: Any, data: Mapping[str, Any]) -> str:
    path = ".".join(_keys(problem["loc"], data)) or "(top)"
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {path}; remove it or correct its spelling"
        case "missing":
            return f"missing key {path}; add it"
        case "union_tag_invalid":
            return f"{path}.kind is {problem['ctx']['tag']!r}; it must be one of {problem['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"missing key {path}.kind; add it"
        case _:
            return f"{path} is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}"


def _keys(location: Sequence[str | int], data: Any) -> list[str]:
    """Return the keys that lead to a value in the file. Drops the union tags that pydantic puts between the keys."""
    keys: list[str] = []
    for part in location:
        kind = isinstance(data, Mapping) and part not in data and part == data.get("kind")
        if kind or (isinstance(part, str) and isinstance(data, list | str | int | float)):
            continue
        keys.append(str(part))
        try:
            data = data[part]
        except (LookupError, TypeError):  # a key that is missing, or a value where a table should be
            data = None
    return keys


def plain(config: Config) -> dict[str, Any]:
    """Return a config as JSON-like data, from which `parse` restores it."""
    return config.model_dump(mode="json")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one flat mapping with dotted keys. Lists are values."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(content: Mapping[str, Any] | Config) -> str:
    """Return a 16-digit hash of a config or mapping; the order of the keys does not change it."""
    data = plain(content) if isinstance(content, Config) else content
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
