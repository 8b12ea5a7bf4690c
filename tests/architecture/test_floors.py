"""An import points down or stays in its room, and every file stands on exactly one floor."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import pytest
from first_party import EVER, EVERYTHING, PACKAGES, Source, Tree, plant, project

ROOMS: Final = ("data", "autoencoders", "models", "sampling", "metrics", "training", "reporting")
TOOLS: Final = ("flow", "masking", "guidance", "nn", "space", "proposals", "text")
GROUND: Final = (
    "errors", "heap", "notation", "config", "randomness", "checkpoint", "tracking", "registry", "ledger", "weights",
    "lineage", "workspace",
)  # fmt: skip
# what the stages share; every other file of pipeline/ is a stage, which has a `main` and is imported by nobody
SHARED: Final = (
    "stage", "cluster", "workers", "trials", "hands", "sampler_trials", "training_trials", "latent_training",
    "environment", "progress", "cost", "predictor", "predictions", "video_predictor", "features", "fitting",
    "encoding", "origins", "served", "jobs", "preflight", "homecoming", "conditioning",
    "one_thread", "previews",
)  # fmt: skip
NEVER_NAMES: Final = frozenset({"utils", "common", "misc", "helpers", "base", "core", "manager", "engine"})

# a right tree that examples change in one place
HOUSE: Final = {
    "components/__init__.py": '"""A house."""',
    "components/data/__init__.py": '"""A room."""',
    "components/config.py": "",
    "components/flow.py": "",
    "components/nn/blocks.py": "",
    "components/data/video.py": "",
    "components/models/canvasmar.py": "",
    "pipeline/stage.py": "",
    "pipeline/cluster.py": "",
    "pipeline/train.py": "def main(): ...",
    "pipeline/sweep.py": "def main(): ...",
    "benchmarks/__init__.py": '"""Clocks."""',
    "benchmarks/clock.py": "",
    "benchmarks/training.py": "",
}

Place = tuple[int, str]  # the floor, 0 is the ground, and the room on it


def place(path: str) -> Place | None:
    """Where a file stands; None where the plan has no place for it."""
    match PurePosixPath(path).with_suffix("").parts:
        case ("pipeline", name):
            return 3, name
        case ("benchmarks", "training_overhead" | "predictor"):  # looks at what is on the roof, from above
            return 4, "benchmarks"
        case ("benchmarks", _):  # a hut beside the roof: it looks into every room, and nobody looks in
            return 3, "benchmarks"
        case ("components", room, _, *_) if room in ROOMS:
            return 2, room
        case ("components", "nn", _, *_):
            return 1, "tools"
        case ("components", name) if name in TOOLS and name != "nn":
            return 1, "tools"
        case ("components", name) if name in GROUND:
            return 0, "ground"
        case _:
            return None


def may_import(importer: Place, imported: Place) -> bool:
    if importer[0] == imported[0] == 3 and imported[1] in SHARED:
        return importer[1] != "benchmarks"
    return imported[0] < importer[0] or imported == importer


def wrong_imports(tree: Tree) -> list[str]:
    return [problem for source in tree.sources.values() for problem in _wrong_imports_of(tree, source)]


def _wrong_imports_of(tree: Tree, source: Source) -> Iterator[str]:
    importer = place(source.path)
    for imported in source.imports:
        where = f"{source.path}:{imported.line} imports {imported.name}"
        target = tree.target(imported)
        if imported.relative:
            yield f"{where} relatively: write the import in full"
        elif imported.top not in PACKAGES:
            continue
        elif target is None or (tree.sources[target].marker and imported.name.replace(".", "/") not in target):
            yield f"{where}, which does not exist"
        elif importer and (there := place(target)) and not may_import(importer, there):
            yield f"{where}: imports point down the floors or stay in their room; move what both need a floor down"


def homeless(tree: Tree) -> list[str]:
    return [
        f"{path} stands on no floor: put it into a room, into components/nn or into pipeline/, "
        "or give it a floor here and in the README's picture"
        for path, source in tree.sources.items()
        if place(path) is None and not (source.marker and path.count("/") == 1)
    ]


def odd_stages(tree: Tree) -> list[str]:
    """Files of pipeline/ that are neither a stage nor shared, or both."""
    problems = []
    for path, source in tree.sources.items():
        stem = PurePosixPath(path).stem
        runs = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in source.tree.body)
        if path.startswith("pipeline/") and not source.marker and runs == (stem in SHARED):
            problems.append(f"{path} must either have a `main`, as a stage, or be named here as shared by the stages")
    return problems


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


def test_every_file_stands_on_one_floor() -> None:
    problems = homeless(project())
    assert not problems, "\n".join(problems)


def test_a_file_of_the_pipeline_is_a_stage_or_shared() -> None:
    problems = odd_stages(project())
    assert not problems, "\n".join(problems)


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
        ("components/data/clips.py", "from components.models import canvasmar", "point down"),
        ("components/data/clips.py", "import components.models.canvasmar", "point down"),
        ("components/data/clips.py", "def f():\n    from components.models.canvasmar import Model", "point down"),
        (
            "components/data/clips.py",
            "if TYPE_CHECKING:\n    from components.models.canvasmar import Model",
            "point down",
        ),
        ("components/data/clips.py", "importlib.import_module('components.models.canvasmar')", "point down"),
        ("components/flow.py", "from components.data.video import read", "point down"),
        ("components/config.py", "from components.nn import blocks", "point down"),
        ("components/nn/attention.py", "from pipeline import stage", "point down"),
        ("pipeline/train.py", "from pipeline.sweep import main", "point down"),
        ("pipeline/stage.py", "from pipeline import train", "point down"),
        ("pipeline/train.py", "from benchmarks import clock", "point down"),
        ("components/flow.py", "from benchmarks import clock", "point down"),
        ("benchmarks/clock.py", "from pipeline import cluster", "point down"),
        ("benchmarks/clock.py", "from pipeline.train import main", "point down"),
        ("components/data/clips.py", "from .video import read", "in full"),
        ("components/data/clips.py", "from . import video", "in full"),
        ("components/data/clips.py", "from components.data import missing", "does not exist"),
        ("components/data/clips.py", "import components.data.missing", "does not exist"),
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
        ("components/data/clips.py", "from components.data.video import read\nfrom components import flow, config"),
        ("components/models/canvasmar.py", "from components.nn.blocks import Block\nimport torch.nn as nn"),
        ("components/nn/attention.py", "from components import flow\nfrom components.nn import blocks"),
        ("components/checkpoint.py", "from components.config import Config"),
        ("pipeline/train.py", "from pipeline import stage, cluster\nimport components.models.canvasmar"),
        ("benchmarks/training.py", "from benchmarks import clock\nfrom components.models import canvasmar"),
        ("benchmarks/training_overhead.py", "from benchmarks import clock\nfrom pipeline import stage, train"),
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
def test_a_file_without_a_floor_is_found(tmp_path: Path, path: str) -> None:
    (problem,) = homeless(plant(tmp_path, HOUSE | {path: ""}))
    assert problem.startswith(f"{path} stands on no floor")


@pytest.mark.parametrize(
    "change", [{"pipeline/train.py": "x = 1"}, {"pipeline/stage.py": "def main(): ..."}, {"pipeline/extra.py": ""}]
)
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
    names = ["components/data/video_utils.py", "components/core/flow.py", "tests/test_helpers.py"]
    assert len(badly_named(names)) == 3
    assert badly_named(["components/data/database.py", "components/nn/score.py"]) == []


@pytest.mark.parametrize("text", ["", "from components.flow import path", '"""Rooms."""\n__all__ = []'])
def test_an_init_file_with_code_is_found(tmp_path: Path, text: str) -> None:
    (problem,) = full_markers(plant(tmp_path, HOUSE | {"components/data/__init__.py": text}))
    assert problem.startswith("components/data/__init__.py")


def test_a_cycle_is_found(tmp_path: Path) -> None:
    ring = {
        "components/data/video.py": "from components.data import clips",
        "components/data/clips.py": "def f():\n    from components.data.video import read",
    }
    assert len(cycles(plant(tmp_path, HOUSE | ring))) == 2
