"""One screen, one thought: sizes, configs without defaults, and words that first-party text does not hold."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeGuard

import pytest

from tests.architecture.first_party import EVERYTHING, Tree, plant, project

# where a person stops reading with ease; the aim is 40 and 300
FUNCTION_LINES: Final = 60
FILE_LINES: Final = 400
LINE_LETTERS: Final = 120
# this folder speaks of the words that it forbids
OURSELVES: Final = "tests/architecture/"
UNFINISHED: Final = re.compile(r"\b(TODO|FIXME|XXX)\b")
DEVELOPER_PATH: Final = re.compile(r"(?<![\w.~-])/(?:home|root|work|Users)/")
PROSE: Final = (
    "README.md",
    "Makefile",
    "pyproject.toml",
    "*.yaml",
    "presets/*.yaml",
    "docs/**/*.md",
    ".ci/*",
    "components/**/*.j2",
)


def too_big(tree: Tree) -> list[str]:
    return [problem for path, source in tree.sources.items() for problem in _too_big(path, source.text, source.tree)]


def _too_big(path: str, text: str, tree: ast.Module) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{path} has {len(lines)} lines, more than {FILE_LINES}: split it by what its parts are about"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LETTERS:
            yield f"{path}:{number} is {len(line)} letters wide, more than {LINE_LETTERS}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                where = f"{path}:{node.lineno} {node.name}"
                yield f"{where} has {length} lines, more than {FUNCTION_LINES}: give a part of it a name"


def late_annotations(tree: Tree) -> list[str]:
    """Shapes are checked at run time, so annotations must be values."""
    return [
        f"{path}:{imported.line} makes annotations strings, which hides shapes from the tests: leave the import out"
        for path, source in tree.sources.items()
        for imported in source.imports
        if imported.name == "__future__.annotations"
    ]


def config_classes(tree: Tree) -> list[tuple[str, ast.ClassDef]]:
    """Classes of the tree that come from Config, however far, with the file that each stands in."""
    classes = [
        (path, node)
        for path, source in tree.sources.items()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    names = {"Config"}
    while more := {node.name for _, node in classes if node.name not in names and names & _parents(node)}:
        names |= more
    return [(path, node) for path, node in classes if names & _parents(node)]


def _parents(node: ast.ClassDef) -> set[str]:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return {ast.unparse(base).rpartition(".")[2] for base in bases}


def defaults(tree: Tree) -> list[str]:
    return [
        f"{path}:{item.lineno} {node.name}.{ast.unparse(item.target)} has a default: the params file says every choice"
        for path, node in config_classes(tree)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and _has_default(item)
    ]


def _has_default(item: ast.AnnAssign) -> bool:
    name, annotation = ast.unparse(item.target), ast.unparse(item.annotation)
    if name == "model_config" or "ClassVar" in annotation:
        return False
    if item.value is not None and not _is_field(item.value):
        return True
    return any(_is_field(node) and _gives_default(node) for node in ast.walk(item))


def _is_field(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Field"


def _gives_default(call: ast.Call) -> bool:
    """Whether a pydantic Field, which may well hold limits alone, also holds a default."""
    given = [argument for argument in call.args if ast.unparse(argument) not in {"...", "Ellipsis"}]
    return bool(given) or any(keyword.arg in {"default", "default_factory"} for keyword in call.keywords)


def unfinished(texts: Mapping[str, str]) -> list[str]:
    return [
        f"{path}:{number} {why}: {line.strip()}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, why in ((UNFINISHED, "is unfinished"), (DEVELOPER_PATH, "names a folder of one machine"))
        if pattern.search(line)
    ]


def texts_of(tree: Tree) -> dict[str, str]:
    """First-party text, by the path: code, parameters, and what a person reads first."""
    code = {path: source.text for path, source in tree.sources.items()}
    prose = {file for pattern in PROSE for file in tree.root.glob(pattern) if file.is_file()}
    texts = code | {file.relative_to(tree.root).as_posix(): file.read_text(encoding="utf-8") for file in sorted(prose)}
    return {path: text for path, text in texts.items() if not path.startswith(OURSELVES)}


def test_functions_files_and_lines_fit_a_screen() -> None:
    problems = too_big(project(*EVERYTHING))
    assert not problems, "\n".join(problems)


def test_no_file_makes_its_annotations_strings() -> None:
    problems = late_annotations(project(*EVERYTHING))
    assert not problems, "\n".join(problems)


def test_configs_have_no_defaults() -> None:
    problems = defaults(project(*EVERYTHING))
    assert not problems, "\n".join(problems)


def test_no_text_is_unfinished_or_names_a_folder_of_one_machine() -> None:
    problems = unfinished(texts_of(project(*EVERYTHING)))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f():\n" + "    x = 1\n" * FUNCTION_LINES, "f has 61 lines"),
        ("class A:\n  def f(self):\n" + "    x = 1\n" * FUNCTION_LINES, "f has 61 lines"),
        ("async def f():\n" + "    x = 1\n" * FUNCTION_LINES, "f has 61 lines"),
        ("x = 1\n" * (FILE_LINES + 1), "has 401 lines"),
        (f"x = '{'a' * 115}'", "121 letters"),
    ],
)
def test_what_is_too_big_is_found(tmp_path: Path, text: str, words: str) -> None:
    (problem,) = too_big(plant(tmp_path, {"components/weights.py": text}))
    assert words in problem


def test_what_just_fits_is_let_through(tmp_path: Path) -> None:
    function = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)
    text = function + "x = 1\n" * (FILE_LINES - FUNCTION_LINES - 1) + f"x = '{'a' * 114}'"
    assert too_big(plant(tmp_path, {"components/weights.py": text})) == []


def test_annotations_made_strings_are_found(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"components/weights.py": '"""Flow."""\n\nfrom __future__ import annotations'})
    (problem,) = late_annotations(tree)
    assert problem.startswith("components/weights.py:3")


@pytest.mark.parametrize(
    "text",
    [
        "class A(Config):\n    x: int = 1",
        "class A(Config):\n    x: int | None = None",
        "class A(config.Config):\n    x: int = 1",
        "class B(Config):\n    pass\nclass A(B, Generic[T]):\n    x: int = 1",
        "class A(Config):\n    x: int = Field(1, gt=0)",
        "class A(Config):\n    x: int = Field(default=1)",
        "class A(Config):\n    x: list[int] = pydantic.Field(default_factory=list)",
        "class A(Config):\n    x: Annotated[int, Field(default=1)]",
    ],
)
def test_a_default_is_found(tmp_path: Path, text: str) -> None:
    (problem,) = defaults(plant(tmp_path, {"components/weights.py": text}))
    assert "A.x has a default" in problem


def test_a_default_far_from_config_is_found(tmp_path: Path) -> None:
    files = {
        "components/weights.py": "class B(Config):\n    y: int",
        "components/nn/blocks.py": "class A(B):\n    x: int = 1",
    }
    assert len(defaults(plant(tmp_path, files))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "class A(Config):\n    model_config = ConfigDict(frozen=True)\n    kinds: ClassVar[int] = 1\n    x: int",
        "class A(Config):\n    x: int = Field(gt=0)\n    y: int = Field(..., gt=0)\n    z: Annotated[int, Field(gt=0)]",
        "@dataclass\nclass A:\n    x: int = 1",
        "class A(Config):\n    x: int\n    def f(self):\n        y: int = 1",
    ],
)
def test_a_config_that_says_nothing_by_itself_is_let_through(tmp_path: Path, text: str) -> None:
    assert defaults(plant(tmp_path, {"components/weights.py": text})) == []


@pytest.mark.parametrize("line", ["# TODO later", "x = 1  # FIXME", "XXX: slow", "path = '/home/ada/x'", "cd /root/x"])
def test_unfinished_text_is_found_in_code_and_prose(tmp_path: Path, line: str) -> None:
    tree = plant(tmp_path, {"README.md": f"Title\n{line}", "presets/bair.yaml": f"# {line}"})
    assert [problem.split()[0] for problem in unfinished(texts_of(tree))] == ["README.md:2", "presets/bair.yaml:1"]


def test_addresses_and_words_alike_are_let_through() -> None:
    line = "https://example.org/home/page ~/work/here my/root/folder TODOS matodo framework/ {root}/home"
    assert unfinished({"README.md": line}) == []
