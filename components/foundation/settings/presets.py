"""Compose whole params files from presets. A preset is its difference to the default, presets/default.yaml.

The block `preset` says what a preset is, and lists in `removes` what it takes out of the default. The tables of the
preset are then merged into those of the default: a mapping key by key, any other value as a whole, with the comment of
its line. An entry with `like: NAME` starts as a copy of the entry NAME of its table, of the preset or of the default.
"""

import copy
import io
import re
import textwrap
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.representer import RoundTripRepresenter

from components.foundation.config import Config, parse, read_yaml
from components.foundation.errors import InputError

ABOUT: Final = "preset"
LIKE: Final = "like"
DEFAULT: Final = "default.yaml"
WIDTH: Final = 150  # characters of a line of comments


class Representer(RoundTripRepresenter):
    """Writes null as `null`; ruamel writes nothing."""


Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


class About(Config):
    """What `canvasmar preset --list` prints of a preset, and what the preset takes out of the default."""

    what: str
    needs: str
    cost: str
    run: str
    removes: tuple[str, ...]


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a params file, or of a preset together with the default. Raises InputError if invalid."""
    tables = read_yaml(path)
    if ABOUT not in tables:
        return tables
    composed: dict[str, Any] = YAML(typ="safe").load(text(path))
    return composed


def about(path: Path) -> About:
    """Return what a preset says of itself. Raises InputError if the file is not a preset."""
    content = read_yaml(path).get(ABOUT)
    if not isinstance(content, dict):
        raise InputError(f"{path} has no block `{ABOUT}`; name a file of presets/")
    return parse(About, content, where=f"{path}: {ABOUT}")


def text(path: Path) -> str:
    """Return a preset as a whole params file with comments. Raises InputError if it does not fit the default."""
    described, default = about(path), _load(path.with_name(DEFAULT))
    tables = copy.deepcopy(default)
    if path.name != DEFAULT:
        for name in described.removes:
            _remove(tables, name, str(path))
        _compose(tables, _load(path), default, str(path))
    header = [
        f"{described.what} Written by `canvasmar preset {path.stem}`.",
        *(f"{key.capitalize()}: {getattr(described, key)}" for key in ("needs", "cost", "run")),
        "",
        "All settings of the pipeline: tables of named entries, and `experiments`, whose rows select one entry of each "
        "table. After an edit, `dvc repro` reruns only the stages that depend on the changed entries.",
    ]
    lines = [f"# {line}".rstrip() for part in header for line in textwrap.wrap(part, WIDTH - 2) or [""]]
    return "\n\n".join(["\n".join(lines), *(_table(tables, table) for table in tables)]) + "\n"


def _load(path: Path) -> CommentedMap:
    """Return the tables of a preset, with their comments."""
    read_yaml(path)  # raises InputError for a file that is not valid
    tables: CommentedMap = YAML().load(path.read_text(encoding="utf-8"))
    tables.pop(ABOUT, None)
    _tidy(tables)
    return tables


def _tidy(mapping: CommentedMap) -> None:
    """Keep comments at their keys alone, one space after the value.

    ruamel has copies of them at mappings, and takes blank lines for comments.
    """
    mapping.ca.comment = None
    for key, value in mapping.items():
        if "#" not in str(mapping.ca.items.get(key, "#")):
            del mapping.ca.items[key]
        elif mapping.ca.items.get(key, [None] * 3)[2] is not None:
            mapping.ca.items[key][2].column = 0
        if isinstance(value, CommentedMap):
            _tidy(value)


def _remove(tables: CommentedMap, name: str, where: str) -> None:
    """Remove an entry, or everything in a table."""
    *parents, last = name.split(".")
    place: Any = tables
    for key in parents:
        place = place.get(key) if isinstance(place, CommentedMap) else None
    if not isinstance(place, CommentedMap) or last not in place:
        raise InputError(f"{where}: {ABOUT}.removes has {name}, which the default does not have; remove it there")
    if parents:
        del place[last]
    else:
        place[last] = CommentedMap()


def _compose(tables: CommentedMap, changes: CommentedMap, default: CommentedMap, where: str) -> None:
    for table, entries in changes.items():
        if not isinstance(entries, CommentedMap) or not isinstance(tables.get(table), CommentedMap):
            _put(tables, table, entries, changes)
            continue
        if table in changes.ca.items:
            tables.ca.items[table] = changes.ca.items[table]
        for name, entry in entries.items():
            if isinstance(entry, CommentedMap) and LIKE in entry:
                like, offered = entry.pop(LIKE), {**default.get(table, {}), **tables[table]}
                if like not in offered:
                    raise InputError(
                        f"{where}: {table}.{name}.like is {like}, which is no entry of {table}; correct it"
                    )
                tables[table][name] = copy.deepcopy(offered[like])
                tables[table].ca.items.pop(name, None)
            _put(tables[table], name, entry, entries)


def _put(place: CommentedMap, key: str, value: Any, written: CommentedMap) -> None:
    """Set a key to a value with the comment it has where it is written; merge a mapping into a mapping."""
    merged = isinstance(value, CommentedMap) and isinstance(place.get(key), CommentedMap)
    if merged:
        if place[key].fa.flow_style() and not value.fa.flow_style():
            place[key].fa.set_block_style()
        for name, inner in value.items():
            _put(place[key], name, inner, value)
    else:
        place[key] = value
    if key in written.ca.items:
        place.ca.items[key] = written.ca.items[key]
    elif not merged:
        place.ca.items.pop(key, None)


def _table(tables: CommentedMap, name: str) -> str:
    """Return a table with its name as text without blank lines."""
    yaml, stream = YAML(), io.StringIO()
    yaml.Representer, yaml.width = Representer, 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    alone = CommentedMap({name: tables[name]})
    if name in tables.ca.items:
        alone.ca.items[name] = tables.ca.items[name]
    yaml.dump(alone, stream)
    return re.sub(r"\n\s*\n", "\n", stream.getvalue()).strip()
