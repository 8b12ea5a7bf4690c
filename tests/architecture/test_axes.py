"""Every axis letter in a shape is one that axes.AXES explains."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.first_party import Source, Tree, plant, project

NOTATION = "components/foundation/axes.py"


def known_axes(tree: Tree) -> frozenset[str]:
    """The keys of AXES, read off the text of notation.py."""
    for node in ast.walk(tree.sources[NOTATION].tree):
        match node:
            case ast.AnnAssign(target=ast.Name(id="AXES"), value=ast.Dict() as table):
                return frozenset(ast.literal_eval(table))
    raise AssertionError(f"{NOTATION} has no table AXES")


def strange_axes(tree: Tree) -> list[str]:
    known = known_axes(tree)
    return [problem for source in tree.sources.values() for problem in _strange_axes_of(source, known)]


def _strange_axes_of(source: Source, known: frozenset[str]) -> Iterator[str]:
    kinds = frozenset(item.name.removeprefix("jaxtyping.") for item in source.imports if item.top == "jaxtyping")
    for line, shape in _shapes(source.tree, kinds - {"PyTree"}) if kinds else ():
        where = f"{source.path}:{line}"
        if shape is None:
            yield f"{where}: write the axes of a shape as one string"
        else:
            yield from (f"{where}: {why}" for axis in shape.split() if (why := _strange(axis, known)))


def _shapes(tree: ast.AST, kinds: frozenset[str]) -> Iterator[tuple[int, str | None]]:
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=kind), slice=ast.Tuple(elts=[_, axes])) if kind in kinds:
                yield node.lineno, _text(axes)
            case ast.Subscript(value=ast.Attribute(value=ast.Name(id="jaxtyping")), slice=ast.Tuple(elts=[_, axes])):
                yield node.lineno, _text(axes)
            case ast.Constant(value=str(text)) if any(f"{kind}[" in text for kind in kinds):
                # a whole annotation in quotes; prose that does not parse says nothing of shapes
                try:
                    quoted = ast.parse(text, mode="eval")
                except SyntaxError:
                    continue
                yield from ((node.lineno, shape) for _, shape in _shapes(quoted, kinds))


def _text(axes: ast.expr) -> str | None:
    return axes.value if isinstance(axes, ast.Constant) and isinstance(axes.value, str) else None


def _strange(axis: str, known: frozenset[str]) -> str | None:
    if axis in {"...", "_"} or (axis.startswith("*") and axis[1:].isidentifier()):
        return None
    try:
        nodes = list(ast.walk(ast.parse(axis, mode="eval")))
    except SyntaxError:
        return f"the axis {axis} is neither a letter, a number, `...`, `_`, `*name` nor simple arithmetic"
    for node in nodes:
        match node:
            case ast.Name(id=letter) if letter not in known:
                return f"the axis {letter} is not in axes.AXES: use a letter from there"
            case ast.Constant(value=value) if type(value) is not int:
                return f"the axis {axis} is not a letter or a whole number"
            case ast.expr() if not isinstance(node, ast.BinOp | ast.Name | ast.Constant):
                return f"the axis {axis} is more than simple arithmetic"
    return None


def test_every_axis_letter_is_in_the_notation() -> None:
    problems = strange_axes(project())
    assert not problems, "\n".join(problems)


AXES = "from typing import Final\nAXES: Final[dict[str, str]] = {'b': 'batch', 'c': 'channels', 'n': 'tokens'}"
START = "from jaxtyping import Float, UInt8, PyTree\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(x: Float[Tensor, 'b z']): ...", "the axis z is not in axes.AXES"),
        ("def f() -> UInt8[Tensor, 'b batch']: ...", "the axis batch is not in"),
        ("def f(x: Float[Tensor, 'b n*z']): ...", "the axis z is not in"),
        ("Frames = Float[Tensor, 'b z']", "the axis z is not in"),
        ("def f(x: list[Float[Tensor, 'z']] | None): ...", "the axis z is not in"),
        ("def f(x: 'Float[Tensor, \"b z\"]'): ...", "the axis z is not in"),
        ("def f(x: Float[Tensor, 'b 2c']): ...", "neither a letter"),
        ("def f(x: Float[Tensor, 'b n+max(c,n)']): ...", "more than simple arithmetic"),
        ("def f(x: Float[Tensor, 'b 1.5']): ...", "whole number"),
        ("def f(x: Float[Tensor, AXES]): ...", "as one string"),
        ("import jaxtyping\ndef f(x: jaxtyping.Float[Tensor, 'b z']): ...", "the axis z is not in"),
    ],
)
def test_a_strange_axis_is_found(tmp_path: Path, text: str, words: str) -> None:
    tree = plant(tmp_path, {NOTATION: AXES, "components/weights.py": START + text})
    (problem,) = strange_axes(tree)
    assert problem.startswith("components/weights.py:")
    assert words in problem


@pytest.mark.parametrize("axes", ["b n c", "b ... c", "*s c", "b 3 4", "b 2*c n//4 n+1", "", "b (n-1)*c", "b _ _"])
def test_a_right_axis_is_let_through(tmp_path: Path, axes: str) -> None:
    text = f"{START}def f(x: Float[Tensor, '{axes}'], y: dict[Literal['z'], PyTree[int, 'T']]):\n    '''Of Float[z.'''"
    assert strange_axes(plant(tmp_path, {NOTATION: AXES, "components/weights.py": text})) == []


def test_a_notation_without_its_table_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no table AXES"):
        strange_axes(plant(tmp_path, {NOTATION: "AXIS = {}"}))
