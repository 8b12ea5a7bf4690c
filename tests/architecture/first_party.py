"""The source tree as text: its files, and what each file imports and when. The files are parsed, not imported.

`python tests/architecture/first_party.py train` prints the rooms that belong in the deps of `pipeline/train.py`.
"""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("components", "pipeline", "benchmarks")
EVERYTHING: Final = (*PACKAGES, "tests")
# from the bottom up: a room imports only itself and rooms above it in this list; every file of code is in one room
ROOMS: Final = (
    "components/foundation",
    "components/telemetry",
    "components/weights.py",
    "components/nn",
    "components/datasets",
    "components/video",
    "components/simulation",
    "components/sources",
    "components/training",
    "components/models",
    "components/metrics",
    "components/pictures",
    "components/sampling",
    "components/reporting",
    "pipeline/runtime",
    "pipeline/monitoring",
    "pipeline/encoding",
    "pipeline/fitting",
    "pipeline/tuning",
    "pipeline/checks",
    "pipeline/jobs",
    "pipeline/commands",
    "pipeline",  # the stages, each a room of its own
    "benchmarks",
)
# telemetry, previews and checks: no output depends on them, so an edit makes no output stale
EXEMPT: Final = ("components/telemetry", "pipeline/monitoring", "pipeline/checks")

# when an import happens: while the file is imported, later or only if it can, or never (types only)
Moment = Literal["import", "later", "typing"]
RUNNING: Final[frozenset[Moment]] = frozenset({"import", "later"})
EVER: Final[frozenset[Moment]] = frozenset({"import", "later", "typing"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, fully dotted: `from a import b` is `a.b`, with `whole` false because b may be no module."""

    name: str
    line: int
    moment: Moment
    whole: bool
    relative: bool = False

    @property
    def top(self) -> str:
        """The top-level package: `ray` for `ray.train`."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Source:
    """A Python file; `path` is relative to the root, with forward slashes."""

    path: str
    text: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def marker(self) -> bool:
        """Whether this is an `__init__.py`."""
        return self.path.endswith("__init__.py")


@dataclass(frozen=True)
class Tree:
    """All Python files in some folders of a project, and all other files in these folders."""

    root: Path
    sources: Mapping[str, Source]
    others: frozenset[str]

    @classmethod
    def read(cls, root: Path, folders: Iterable[str] = PACKAGES) -> "Tree":
        """Parse every .py file below these folders of the root; folders that are missing are empty."""
        files = sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
        names = {path.relative_to(root).as_posix(): path for path in files if "__pycache__" not in path.parts}
        sources = {name: _source(name, path.read_text("utf-8")) for name, path in names.items() if path.suffix == ".py"}
        return cls(root, sources, frozenset(names.keys() - sources.keys()))

    def target(self, imported: Import) -> str | None:
        """Return the file of this tree that an import loads; None if there is none."""
        candidates = [imported.name] if imported.whole else [imported.name, imported.name.rpartition(".")[0]]
        for candidate in candidates:
            stem = candidate.replace(".", "/")
            found = [path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in self.sources]
            if found:
                return found[0]
        return None

    def targets(self, path: str, moments: frozenset[Moment] = RUNNING) -> Iterator[str]:
        """Yield the files of this tree that a file imports at these moments."""
        for imported in self.sources[path].imports:
            target = self.target(imported)
            if target is not None and imported.moment in moments:
                yield target

    def closure(
        self, path: str, moments: frozenset[Moment] = RUNNING, without: frozenset[str] = frozenset()
    ) -> frozenset[str]:
        """Return a file and its imports at any depth, without `__init__.py`, and without `without` and its imports."""
        seen: set[str] = set()
        ahead = [path]
        while ahead:
            here = ahead.pop()
            if here not in seen | without:
                seen.add(here)
                ahead.extend(self.targets(here, moments))
        return frozenset(name for name in seen if not self.sources[name].marker)

    def companions(self, paths: Iterable[str]) -> frozenset[str]:
        """Return the other files, such as templates, that these Python files name in a string, in their own folder."""
        found = set()
        for path in paths:
            folder = PurePosixPath(path).parent
            near = {other for other in self.others if PurePosixPath(other).parent == folder}
            if near:
                words = [
                    str(node.value) for node in ast.walk(self.sources[path].tree) if isinstance(node, ast.Constant)
                ]
                found |= {other for other in near if PurePosixPath(other).name in words}
        return frozenset(found)

    def below(self, folder: str) -> frozenset[str]:
        """Return all files in a folder, at any depth, except `__init__.py`."""
        names = {name for name, source in self.sources.items() if not source.marker} | self.others
        return frozenset(name for name in names if name.startswith(f"{folder}/"))


@functools.cache
def project(*folders: str) -> Tree:
    """Return the tree of these folders of the project, or of PACKAGES if none is named."""
    return Tree.read(ROOT, folders or PACKAGES)


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    """Write these files and return their tree, to test the checks themselves."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return Tree.read(root)


def room(path: str) -> str | None:
    """Return the room of a file: the file itself for a stage; None if it is in no room."""
    parts = PurePosixPath(path).parts
    if len(parts) == 2 and parts[0] == "pipeline":
        return path
    top = parts[0] if parts[0] == "benchmarks" and len(parts) == 2 else "/".join(parts[:2])
    return top if top in ROOMS and (len(parts) > 2 or top in {path, "benchmarks"}) else None


def floor(of: str) -> int:
    """Return the index of a room in ROOMS."""
    return ROOMS.index(of if of in ROOMS else "pipeline")


def exempt(path: str) -> bool:
    """Return whether no output depends on a file."""
    return path.startswith(tuple(f"{name}/" for name in EXEMPT))


def needs(tree: Tree, path: str) -> frozenset[str]:
    """Return the files of this tree on which the outputs of a stage depend."""
    closure = tree.closure(path, without=frozenset(filter(exempt, tree.sources)))
    return closure | tree.companions(closure)


def code_deps(tree: Tree, path: str) -> list[str]:
    """Return the code deps of a stage: the rooms that it imports from, in the order of ROOMS, and its own file."""
    rooms = {found for name in needs(tree, path) if (found := room(name)) is not None}
    return sorted(rooms, key=lambda found: (floor(found), found))


@functools.cache
def _source(name: str, text: str) -> Source:
    tree = ast.parse(text, filename=name)
    return Source(name, text, tree, tuple(_imports(tree, "import")))


def _imports(node: ast.AST, moment: Moment) -> Iterator[Import]:
    match node:
        case ast.Import():
            yield from (Import(alias.name, node.lineno, moment, whole=True) for alias in node.names)
        case ast.ImportFrom(module=module, level=level):
            start = f"{module}." if module else ""
            for alias in node.names:
                yield Import(f"{start}{alias.name}", node.lineno, moment, whole=False, relative=level > 0)
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]):
            if called in {"import_module", "__import__"}:
                yield Import(name, node.lineno, moment, whole=True)
    for child, then in _children(node, moment):
        yield from _imports(child, then)


def _children(node: ast.AST, moment: Moment) -> Iterator[tuple[ast.AST, Moment]]:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            yield from ((child, "typing") for child in node.body)
            yield from ((child, moment) for child in node.orelse)
        case ast.Try() if moment == "import" and any(_forgives(handler) for handler in node.handlers):
            yield from ((child, "later") for child in node.body)
            yield from ((child, moment) for child in (*node.handlers, *node.orelse, *node.finalbody))
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if moment == "import":
            yield from ((child, "later") for child in ast.iter_child_nodes(node))
        case _:
            yield from ((child, moment) for child in ast.iter_child_nodes(node))


def _forgives(handler: ast.ExceptHandler) -> bool:
    caught = "" if handler.type is None else ast.unparse(handler.type)
    return not caught or "ImportError" in caught or "ModuleNotFoundError" in caught


if __name__ == "__main__":
    stages = {
        PurePosixPath(path).stem: path
        for path in project().sources
        if path.count("/") == 1 and path.startswith("pipeline/")
    }
    if len(sys.argv) != 2 or sys.argv[1] not in stages:
        sys.exit(f"name one stage of pipeline/: {', '.join(stages)}")
    for line in code_deps(project(), stages[sys.argv[1]]):
        print(f"      - {line}")
