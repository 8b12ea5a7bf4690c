"""Hooks of mkdocs: generate pages from the code, and add the pages that mkdocs.yml does not list to the navigation."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PACKAGES = ("components", "pipeline")


def on_config(config: Any) -> Any:
    """Add the pages to the navigation that it does not list."""
    nav = config.nav
    named = set(re.findall(r"[\w/.-]+\.md", str(nav)))
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    place = next(index for index, entry in enumerate(nav) if "Decisions" in entry)
    nav[place:place] = [{"Topics": others}] if others else []
    modules = [{".".join(filter(None, (package, *folder.split("/")))): name} for package, folder, name in packages()]
    nav.append({"Reference": [{"Parameters": "reference/params.md"}, *modules]})
    nav[place:place] = [{"Results": "results.md"}]
    nav.append({"What was tried": "tried.md"})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are generated from the code."""
    made = {"reference/params.md": parameters(), "tried.md": (ROOT / "LAB.md").read_text(encoding="utf-8")}
    made["results.md"] = results()
    for package, folder, name in packages():
        lines = [f"# {'.'.join(filter(None, (package, *folder.split('/'))))}\n"]
        pattern = f"{package}/{folder}/*.py" if folder else f"{package}/*.py"
        for path in sorted(ROOT.glob(pattern)):
            if path.name != "__init__.py":
                lines.append("::: " + ".".join(path.relative_to(ROOT).with_suffix("").parts) + "\n")
        made[name] = "\n".join(lines)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def results() -> str:
    """Return the page of the committed metrics of `evaluate`, with a column for each row of `experiments`."""
    rows = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "metrics/evaluate").glob("*"))
    }
    names = sorted({name for numbers in rows.values() for name in numbers})
    lines = [
        "# Results\n",
        "The metrics of the last committed run of `params.yaml`, as `dvc metrics show` prints them.",
        "[Scores](scores.md) defines each metric. The report also shows the intervals.\n",
        f"| | {' | '.join(rows)} |",
        "|---|" + "---|" * len(rows),
    ]
    for name in names:
        cells = [f"{row[name]:.4g}" if name in row else "–" for row in rows.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def packages() -> Iterator[tuple[str, str, str]]:
    """Yield each package's name, its folder below the top-level package, and the path of its page."""
    for package in PACKAGES:
        folders = [path.parent.relative_to(ROOT / package).as_posix() for path in (ROOT / package).rglob("__init__.py")]
        for folder in sorted("" if name == "." else name for name in folders):
            yield package, folder, f"reference/{'-'.join(filter(None, (package, *folder.split('/'))))}.md"


def parameters() -> str:
    """Return the page of params.yaml, table by table: each field, its type, and the comment beside it in the code."""
    sys.path.insert(0, str(ROOT))
    entries = importlib.import_module("pipeline.checks.entries")
    lines = [
        "# Parameters\n",
        "`params.yaml` holds these tables of named entries, and [`prices`](../cluster.md#what-it-costs). "
        "Every field is required, because the code has no defaults.\n",
    ]
    for table, (_, kind) in entries.KINDS.items():
        lines.append(f"## {table}\n")
        for schema in dict.fromkeys(schemas(kind)):
            lines += described(schema, 3)
    return "\n".join(lines)


def schemas(annotation: Any) -> Iterator[type]:
    """Yield the config classes of a type, in their order."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from schemas(part)


def described(schema: Any, level: int) -> list[str]:
    """Return the lines of one class: a heading, its docstring, a table of its fields, and the classes of its fields."""
    source = "\n".join(inspect.getsource(base) for base in schema.__mro__ if base.__module__.startswith(PACKAGES))
    lines = [f"{'#' * level} {schema.__name__}\n", f"{inspect.getdoc(schema)}\n", "| field | type | |", "|---|---|---|"]
    inner = []
    for name, field in schema.model_fields.items():
        note = re.search(rf"^    {name}:[^#\n]*#\s*(.*)$", source, re.MULTILINE)
        shown = written(field.annotation).replace("|", "\\|")
        lines.append(f"| `{name}` | {shown} | {note[1] if note else ''} |")
        inner += [one for one in schemas(field.annotation) if one is not schema]
    lines.append("")
    for one in dict.fromkeys(inner):
        lines += described(one, min(level + 1, 5))
    return lines


def written(annotation: Any) -> str:
    """Return the name of a type as a reader of YAML writes it."""
    if get_origin(annotation) is Annotated:
        return written(get_args(annotation)[0])
    if annotation is type(None):
        return "null"
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(written(part) for part in get_args(annotation))
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if get_origin(annotation) in (tuple, dict):
        parts = ("..." if part is Ellipsis else written(part) for part in get_args(annotation))
        return f"{get_origin(annotation).__name__}[{', '.join(parts)}]"
    return re.sub(r"(typing|components|pipeline)(\.\w+)*\.", "", str(annotation))
