"""An import points down or stays in its room, every file is in one room, and a room is no warehouse."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from tests.architecture.first_party import EVER, EVERYTHING, PACKAGES, Source, Tree, floor, plant, project, room

FULL: Final = 10  # files of a folder, or a little more than a person holds in mind
NEVER_NAMES: Final = frozenset({"utils", "common", "misc", "helpers", "base", "core", "manager", "engine"})

# a right tree that examples change in one place
HOUSE: Final = {
    "components/__init__.py": '"""A house."""',
    "components/datasets/__init__.py": '"""A room."""',
    "components/foundation/config.py": "",
    "components/weights.py": "",
    "components/nn/blocks.py": "",
    "components/video/video.py": "",
    "components/datasets/shards.py": "",
    "components/models/canvasmar/model.py": "",
    "pipeline/runtime/stage.py": "",
    "pipeline/runtime/cluster.py": "",
    "pipeline/train.py": "def main(): ...",
    "pipeline/sweep.py": "def main(): ...",
    "benchmarks/__init__.py": '"""Clocks."""',
    "benchmarks/clock.py": "",
    "benchmarks/training.py": "",
}


def may_import(importer: str, imported: str) -> bool:
    """Whether a file of one room may import one of another."""
    return importer == imported or floor(imported) < floor(importer)


def wrong_imports(tree: Tree) -> list[str]:
    return [problem for source in tree.sources.values() for problem in _wrong_imports_of(tree, source)]


def _wrong_imports_of(tree: Tree, source: Source) -> Iterator[str]:
    importer = room(source.path)
    for imported in source.imports:
        where = f"{source.path}:{imported.line} imports {imported.name}"
        target = tree.target(imported)
        if imported.relative:
            yield f"{where} relatively: write the import in full"
        elif imported.top not in PACKAGES:
            continue
        elif target is None or (tree.sources[target].marker and imported.name.replace(".", "/") not in target):
            yield f"{where}, which does not exist"
        elif importer and (there := room(target)) and not may_import(importer, there):
            yield f"{where}: imports point down the list of rooms or stay in their room; move what both need down"


def homeless(tree: Tree) -> list[str]:
    return [
        f"{path} is in no room: put it into one, or give it a place in the list of rooms and in docs/structure.md"
        for path, source in tree.sources.items()
        if room(path) is None and not (source.marker and path.count("/") == 1)
    ]


def odd_stages(tree: Tree) -> list[str]:
    """Files of pipeline/ itself that are no stage."""
    return [
        f"{path} has no `main`: a file beside the rooms of pipeline/ is a stage"
        for path, source in tree.sources.items()
        if path.startswith("pipeline/") and path.count("/") == 1 and not source.marker
        if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in source.tree.body)
    ]


def warehouses(tree: Tree) -> list[str]:
    """Folders of more files than a person holds in mind."""
    held = Counter(str(PurePosixPath(path).parent) for path, source in tree.sources.items() if not source.marker)
    return [
        f"{folder} holds {count} files, more than {FULL}: make rooms of it by what its parts are about"
        for folder, count in held.items()
        if count > FULL and folder != "benchmarks"
    ]


def idle_commands(tree: Tree) -> list[str]:
    """Files with a `main` that do nothing when they are run."""
    return [
        f'{path} has a `main` that `python -m` does not run: end it with `if __name__ == "__main__":`'
        for path, source in tree.sources.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in source.tree.body)
        and not any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in source.tree.body)
    ]


def badly_named(paths: Iterable[str]) -> list[str]:
    return [
        f"{path} is named {word}, which says nothing: name the file after what it holds"
        for path in paths
        for part in PurePosixPath(path).with_suffix("").parts
        for word in part.split("_")
        if word in NEVER_NAMES
    ]


def full_markers(tree: Tree) -> list[str]:
    return [
        f"{path} must hold a docstring and nothing else"
        for path, source in tree.sources.items()
        if source.marker and (len(source.tree.body) != 1 or ast.get_docstring(source.tree) is None)
    ]


def cycles(tree: Tree) -> list[str]:
    reach = {
        path: {end for start in tree.targets(path, EVER) for end in tree.closure(start, EVER)} for path in tree.sources
    }
    return [f"{path} imports itself by way of others" for path in tree.sources if path in reach[path]]


def test_imports_point_down_or_stay_in_their_room() -> None:
    problems = wrong_imports(project())
    assert not problems, "\n".join(problems)


def test_every_file_is_in_one_room() -> None:
    problems = homeless(project())
    assert not problems, "\n".join(problems)


def test_a_file_beside_the_rooms_of_the_pipeline_is_a_stage() -> None:
    problems = odd_stages(project())
    assert not problems, "\n".join(problems)


def test_no_room_is_a_warehouse() -> None:
    problems = warehouses(project())
    assert not problems, "\n".join(problems)


def test_a_warehouse_is_found(tmp_path: Path) -> None:
    files = {f"components/nn/layer_{number}.py": "" for number in range(FULL)}
    assert warehouses(plant(tmp_path / "right", files)) == []
    (problem,) = warehouses(plant(tmp_path / "wrong", HOUSE | files))
    assert problem.startswith("components/nn holds 11 files")


def test_no_file_has_a_name_that_says_nothing() -> None:
    problems = badly_named(project(*EVERYTHING).sources)
    assert not problems, "\n".join(problems)


def test_init_files_hold_a_docstring_only() -> None:
    problems = full_markers(project())
    assert not problems, "\n".join(problems)


def test_no_file_imports_itself_by_way_of_others() -> None:
    problems = cycles(project())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("components/datasets/clips.py", "from components.models.canvasmar import model", "point down"),
        ("components/datasets/clips.py", "import components.models.canvasmar.model", "point down"),
        ("components/datasets/clips.py", "def f():\n    from components.models.canvasmar.model import A", "point down"),
        (
            "components/datasets/clips.py",
            "if TYPE_CHECKING:\n    from components.models.canvasmar.model import Model",
            "point down",
        ),
        ("components/datasets/clips.py", "importlib.import_module('components.models.canvasmar.model')", "point down"),
        ("components/weights.py", "from components.video.video import read", "point down"),
        ("components/foundation/config.py", "from components.nn import blocks", "point down"),
        ("components/nn/attention.py", "from pipeline.runtime import stage", "point down"),
        ("pipeline/train.py", "from pipeline.sweep import main", "point down"),
        ("pipeline/runtime/stage.py", "from pipeline import train", "point down"),
        ("pipeline/train.py", "from benchmarks import clock", "point down"),
        ("components/weights.py", "from benchmarks import clock", "point down"),
        ("components/datasets/clips.py", "from .shards import read", "in full"),
        ("components/datasets/clips.py", "from . import shards", "in full"),
        ("components/datasets/clips.py", "from components.datasets import missing", "does not exist"),
        ("components/datasets/clips.py", "import components.datasets.missing", "does not exist"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, text: str, words: str) -> None:
    tree = plant(tmp_path, HOUSE | {path: text})
    (problem,) = wrong_imports(tree)
    assert problem.startswith(f"{path}:")
    assert words in problem


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("components/datasets/clips.py", "from components.datasets.shards import read\nfrom components import weights"),
        ("components/models/canvasmar/model.py", "from components.nn.blocks import Block\nimport torch.nn as nn"),
        ("components/nn/attention.py", "from components import weights\nfrom components.nn import blocks"),
        ("components/foundation/checkpoint.py", "from components.foundation.config import Config"),
        ("pipeline/train.py", "from pipeline.runtime import stage, cluster\nimport components.models.canvasmar.model"),
        ("benchmarks/training.py", "from benchmarks import clock\nfrom components.models.canvasmar import model"),
        ("benchmarks/training_overhead.py", "from benchmarks import clock\nfrom pipeline import train"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, path: str, text: str) -> None:
    tree = plant(tmp_path, HOUSE | {path: text})
    assert wrong_imports(tree) == []
    assert cycles(tree) == []


@pytest.mark.parametrize(
    "path",
    [
        "components/extra.py",
        "components/extra/thing.py",
        "components/nn.py",
        "pipeline/stages/train.py",
        "benchmarks/tables/plain.py",
    ],
)
def test_a_file_without_a_room_is_found(tmp_path: Path, path: str) -> None:
    (problem,) = homeless(plant(tmp_path, HOUSE | {path: ""}))
    assert problem.startswith(f"{path} is in no room")


@pytest.mark.parametrize("change", [{"pipeline/train.py": "x = 1"}, {"pipeline/extra.py": ""}])
def test_a_file_of_the_pipeline_that_is_no_stage_is_found(tmp_path: Path, change: dict[str, str]) -> None:
    assert odd_stages(plant(tmp_path / "right", HOUSE)) == []
    (problem,) = odd_stages(plant(tmp_path / "wrong", HOUSE | change))
    assert problem.split()[0] in change


def test_every_command_does_something_when_it_is_run() -> None:
    problems = idle_commands(project())
    assert not problems, "\n".join(problems)


def test_a_command_that_does_nothing_is_found(tmp_path: Path) -> None:
    whole = 'def main(): ...\n\nif __name__ == "__main__":\n    main()'
    tree = plant(tmp_path, {"pipeline/train.py": whole, "pipeline/sweep.py": "def main(): ...", "pipeline/job.py": ""})
    (problem,) = idle_commands(tree)
    assert problem.startswith("pipeline/sweep.py has a `main`")


def test_a_name_that_says_nothing_is_found() -> None:
    names = ["components/video/video_utils.py", "components/core/flow.py", "tests/test_helpers.py"]
    assert len(badly_named(names)) == 3
    assert badly_named(["components/datasets/database.py", "components/nn/score.py"]) == []


@pytest.mark.parametrize("text", ["", "from components.weights import path", '"""Rooms."""\n__all__ = []'])
def test_an_init_file_with_code_is_found(tmp_path: Path, text: str) -> None:
    (problem,) = full_markers(plant(tmp_path, HOUSE | {"components/datasets/__init__.py": text}))
    assert problem.startswith("components/datasets/__init__.py")


def test_a_cycle_is_found(tmp_path: Path) -> None:
    ring = {
        "components/datasets/shards.py": "from components.datasets import clips",
        "components/datasets/clips.py": "def f():\n    from components.datasets.shards import read",
    }
    assert len(cycles(plant(tmp_path, HOUSE | ring))) == 2
