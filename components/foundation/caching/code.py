"""The identity of the code that computes a result: a hash of its module and of all first-party modules it imports."""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
PACKAGES: Final = ("components", "pipeline")
# recorded, shown and checked, but no result depends on it; the same rooms as in dvc.yaml
EXEMPT: Final = ("components/telemetry", "pipeline/monitoring", "pipeline/checks")
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def fingerprint(*files: str | Path, root: Path = ROOT) -> str:
    """Return a 16-digit hash of these source files and of every first-party module that they import, at any depth.

    Imports inside functions count too, but not those below `if TYPE_CHECKING`. The hash covers the syntax trees without
    docstrings, so edits of comments, docstrings and formatting do not change it. Files of EXEMPT do not count, nor do
    third-party packages.
    """
    return _fingerprint(root, tuple(sorted(Path(file).resolve().relative_to(root).as_posix() for file in files)))


def closure(*files: str, root: Path = ROOT) -> frozenset[str]:
    """Return these files and the first-party files that they import, at any depth; paths are relative to `root`."""
    seen: set[str] = set()
    ahead = list(files)
    while ahead:
        here = ahead.pop()
        if here not in seen and not here.startswith(tuple(f"{room}/" for room in EXEMPT)):
            seen.add(here)
            ahead += _module(root, here)[1]
    return frozenset(seen)


@functools.cache
def _fingerprint(root: Path, files: tuple[str, ...]) -> str:
    found = hashlib.sha256()
    for path in sorted(closure(*files, root=root)):
        found.update(f"{path}\n{_module(root, path)[0]}\n".encode())
    return found.hexdigest()[:16]


@functools.cache
def _module(root: Path, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the dump of a module's syntax tree without docstrings, and the first-party files that it imports."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    targets = {target for name in _imported(tree) if (target := _file(root, name)) is not None}
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree), tuple(sorted(targets))


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the full dotted name of everything that is imported: `from a import b` yields `a.b`."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            children: list[ast.AST] = list(node.orelse)
        case ast.Import():
            yield from (alias.name for alias in node.names)
            return
        case ast.ImportFrom():
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            return
        case _:
            children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _imported(child)


def _file(root: Path, name: str) -> str | None:
    """Return the first-party file of a dotted name, which may be a module or a name inside a module."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    for candidate in (name, name.rpartition(".")[0]):
        stem = candidate.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if (root / path).is_file():
                return path
    return None
