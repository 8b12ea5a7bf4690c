"""JSON files and answers have one writer, which writes nothing that is not JSON, such as NaN."""

import ast

import pytest

from tests.architecture.first_party import Tree, plant, project

WRITER = "components/foundation/files.py"
WRITES = {"write", "write_text", "write_bytes"}


def other_writers(tree: Tree) -> list[str]:
    return [
        f"{path}:{node.lineno} writes JSON by itself: use write_json or to_json of {WRITER}"
        for path, source in tree.sources.items()
        if path != WRITER
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and (_calls(node, "json.dump") or (_writes(node) and _holds_json(node)))
    ]


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def _writes(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr in WRITES


def _holds_json(node: ast.Call) -> bool:
    return any(_calls(part, "json.dumps") for part in ast.walk(node))


def test_json_has_one_writer() -> None:
    problems = other_writers(project("components", "pipeline"))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "line",
    [
        'path.write_text(json.dumps(x) + "\\n")',
        "json.dump(x, file)",
        'file.write(f"{json.dumps(x)}")',
        "path.write_bytes(json.dumps(x).encode())",
    ],
)
def test_another_writer_is_found(tmp_path, line) -> None:
    tree = plant(
        tmp_path, {"components/a.py": f"import json\ndef f(path, file, x):\n    {line}\n    return json.dumps(x)"}
    )
    assert len(other_writers(tree)) == 1
