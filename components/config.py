"""params.yaml <-> frozen pydantic models, strict: the file is the truth, and nothing has a default hidden in code."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import InputError


class Config(BaseModel):
    """A set of choices, frozen and complete; it lives beside the class that it builds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


C = TypeVar("C", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError if the file is missing, unreadable or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run from the project's folder or name another file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); name a YAML file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping of tables, not {type(content).__name__}")
    return content


def value(text: str) -> Any:
    """What a word on a command line stands for: a number, a choice, a text. Raises InputError if broken."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{text!r} is no value; write a number, true, false, null or a word") from None


def dump_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML, keys in their own order."""
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)


def parse(model: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """A config out of plain data; `where` names the place that errors point to, such as `params.yaml: models.small`.

    Raises InputError that gives the full path of each wrong key, its value and what is allowed.
    """
    try:  # JSON mode, so that a YAML list is a tuple and nothing else is converted
        return model.model_validate_json(json.dumps(data, allow_nan=False))
    except ValidationError as error:
        problems = "; ".join(_sentence(problem, data) for problem in error.errors(include_url=False))
        raise InputError(f"{where}: {problems}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a value is no plain data or not finite ({error}); correct it") from None


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
    """The place in the file: without the names of kinds and types, which pydantic puts between the keys."""
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
    """A config as JSON-like data: what `parse` takes back."""
    return config.model_dump(mode="json")


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat mapping with dotted keys, lists kept as values."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(content: Mapping[str, Any] | Config) -> str:
    """A short hash of choices: equal choices, equal hash, whatever the order of their keys."""
    data = plain(content) if isinstance(content, Config) else content
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
