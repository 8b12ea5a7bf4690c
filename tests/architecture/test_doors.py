"""Every vendor has one door, every import is declared, and components/ and benchmarks/ need little of a machine."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.architecture.first_party import PACKAGES, ROOT, Tree, plant, project

# a vendor, and where it may be imported: files, or folders that end with a slash; nowhere if empty
DOORS: Final[dict[str, tuple[str, ...]]] = {
    # several, so that an edit of the search or of the server trains nothing again; Ray Serve has its own
    "ray": (
        *("pipeline/runtime/", "pipeline/fitting/", "pipeline/tuning/", "pipeline/jobs/"),
        *("pipeline/monitoring/nodes.py", "pipeline/commands/serve.py", "pipeline/commands/serving/"),
    ),
    # runs and registered models; a model that is fetched if asked; and the code that MLflow runs to serve one
    "mlflow": (
        "components/telemetry/",
        *("pipeline/commands/video_predictor.py", "pipeline/commands/mlflow_model.py"),
    ),
    "ruamel": ("components/foundation/config.py", "components/foundation/settings/presets.py"),
    "yaml": (),  # PyYAML reads YAML 1.1; DVC and components/foundation/config.py read 1.2
    "decord": ("components/video/decord_reader.py", "benchmarks/preprocess.py"),  # the benchmark compares with it bare
    "av": ("components/video/",),
    "pybullet": ("components/simulation/kuka.py",),
    "pybullet_data": ("components/simulation/kuka.py",),
    "diffusers": ("components/nn/autoencoders/pretrained.py",),
    "timm": ("components/nn/from_timm.py",),
    "torchvision": ("components/nn/from_timm.py",),
    "matplotlib": ("components/reporting/", "components/pictures/", "pipeline/tuning/figures.py"),
    "jinja2": ("components/reporting/",),
    "PIL": ("components/pictures/", "components/video/"),
    "gradio": ("pipeline/commands/demo.py",),
    "starlette": ("pipeline/commands/serving/ingress.py",),
    "typer": ("pipeline/commands/cli.py",),
    "optuna": ("pipeline/tuning/suggest.py",),
    "transformers": ("components/models/conditions/text.py",),
    "dvc": (),
}
# what an extra of pyproject.toml brings, and where alone it may be needed
OPTIONAL: Final = {
    "pybullet": "arm", "gradio": "demo", "starlette": "serve", "diffusers": "pretrained", "transformers": "text"
}  # fmt: skip
# a distribution whose import has another name
DISTRIBUTIONS: Final = {"ruamel": "ruamel.yaml", "decord": "decord2", "PIL": "pillow", "pybullet_data": "pybullet"}
# what a machine has that only computes; timm brings torchvision
BARE: Final = frozenset(
    {"torch", "torchvision", "einops", "timm", "numpy", "jaxtyping", "safetensors", "pyarrow", "pandas", "pydantic"}
    | {"ruamel"}
)
# what such a machine does without: runs in MLflow, reading videos, simulating them, the report
BEYOND_BARE: Final = (
    "components/telemetry/",
    "components/video/",
    "components/simulation/kuka.py",
    "components/sources/",
    "components/pictures/",
    "components/reporting/",
    "benchmarks/preprocess.py",
    "benchmarks/predictor.py",
)


def passes(path: str, places: tuple[str, ...]) -> bool:
    return any(path.startswith(place) if place.endswith("/") else path == place for place in places)


def break_ins(tree: Tree) -> list[str]:
    return [
        f"{path}:{imported.line} imports {imported.name}, whose only door is "
        f"{' or '.join(DOORS[imported.top]) or 'nowhere'}"
        for path, source in tree.sources.items()
        for imported in source.imports
        if not imported.relative and imported.top in DOORS and not passes(path, DOORS[imported.top])
    ]


def declared(pyproject: Path) -> frozenset[str]:
    """The normalised names of the distributions that the project depends on, extras apart."""
    requirements = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return frozenset(_normal(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]) for requirement in requirements)


def undeclared(tree: Tree, dependencies: frozenset[str]) -> list[str]:
    return [
        f"{path}:{imported.line} imports {imported.top}, which is not among the dependencies in pyproject.toml"
        for path, source in tree.sources.items()
        for imported in source.imports
        if not imported.relative
        and imported.top not in {*PACKAGES, *OPTIONAL, *sys.stdlib_module_names}
        and DISTRIBUTIONS.get(imported.top, imported.top) not in OPTIONAL
        and _normal(DISTRIBUTIONS.get(imported.top, imported.top)) not in dependencies
    ]


def too_demanding(tree: Tree) -> list[str]:
    """Files of components/ and benchmarks/ that cannot be imported on a machine that only computes, and why."""
    return [
        f"{path} cannot be imported without {imported.top}, by way of {reached}:{imported.line}; "
        "import it where it is used"
        for path in tree.sources
        if path.startswith(("components/", "benchmarks/")) and not passes(path, BEYOND_BARE)
        for reached in sorted(tree.closure(path, frozenset({"import"})))
        for imported in tree.sources[reached].imports
        if imported.moment == "import" and imported.top not in {*BARE, *PACKAGES, *sys.stdlib_module_names}
    ]


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_vendor_is_imported_at_its_door_only() -> None:
    problems = break_ins(project())
    assert not problems, "\n".join(problems)


def test_every_import_is_a_declared_dependency() -> None:
    problems = undeclared(project(), declared(ROOT / "pyproject.toml"))
    assert not problems, "\n".join(problems)


def test_components_and_benchmarks_import_on_a_machine_that_only_computes() -> None:
    problems = too_demanding(project())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("components/training/loop.py", "import ray"),
        ("components/training/loop.py", "def fit():\n    import ray.train"),
        ("pipeline/train.py", "from ray import train"),
        ("pipeline/runtime/stage.py", "import mlflow"),
        ("components/sources/sources.py", "from yaml import safe_load"),
        ("components/datasets/clips.py", "try:\n    import av\nexcept ImportError:\n    av = None"),
        ("components/simulation/shapes.py", "importlib.import_module('pybullet')"),
        ("components/nn/blocks.py", "from timm.layers import DropPath"),
        ("components/metrics/distances/fvd.py", "import matplotlib.pyplot as plt"),
        ("components/simulation/kuka.py", "from PIL import Image"),
        ("pipeline/runtime/cluster.py", "import dvc.api"),
    ],
)
def test_a_vendor_beside_its_door_is_found(tmp_path: Path, path: str, text: str) -> None:
    (problem,) = break_ins(plant(tmp_path, {path: text}))
    assert path in problem
    assert "door" in problem


def test_a_vendor_at_its_door_is_let_through(tmp_path: Path) -> None:
    doors = {
        "pipeline/fitting/workers.py": "import ray.train",
        "components/telemetry/tracking.py": "def run():\n    import mlflow",
        "components/video/video.py": "import av\nfrom PIL import Image",
        "components/pictures/galleries.py": "from matplotlib import pyplot\nfrom PIL import Image",
        "components/nn/blocks.py": "import torch\nfrom components.nn import from_timm",
    }
    assert break_ins(plant(tmp_path, doors)) == []


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    pyproject = (
        '[project]\ndependencies = ["torch>=2", "ruamel.yaml", "ray[train]>=2", "av>=14; python_version > \'3\'"]'
    )
    text = "import torch.nn, ruamel.yaml, av, ray, json\nfrom components import weights\ndef f():\n    import scipy"
    tree = plant(tmp_path, {"pyproject.toml": pyproject, "components/weights.py": text})
    (problem,) = undeclared(tree, declared(tmp_path / "pyproject.toml"))
    assert "components/weights.py:4 imports scipy" in problem


def test_a_room_that_needs_more_than_a_bare_machine_is_found(tmp_path: Path) -> None:
    tree = plant(
        tmp_path,
        {
            "components/foundation/checkpoint.py": "import psutil",
            "components/training/loop.py": "from components.foundation import checkpoint",
            "benchmarks/training.py": "from components.training import loop",
        },
    )
    assert [problem.split()[0] for problem in too_demanding(tree)] == [
        "benchmarks/training.py",
        "components/foundation/checkpoint.py",
        "components/training/loop.py",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def run():\n    import psutil",
        "if TYPE_CHECKING:\n    import psutil",
        "try:\n    import psutil\nexcept ImportError:\n    psutil = None",
    ],
)
def test_an_import_that_can_wait_asks_nothing_of_the_machine(tmp_path: Path, text: str) -> None:
    assert too_demanding(plant(tmp_path, {"components/foundation/checkpoint.py": text})) == []
