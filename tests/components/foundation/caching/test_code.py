"""The identity of code changes with every function that computes a result, and with nothing else."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from components.foundation.caching import code

ROOT = Path(__file__).parents[4]
TREE = {
    "components/__init__.py": '"""A package."""',
    "components/flow.py": "def step(x):\n    return x + 1\n",
    "components/masking.py": "def mask(x):\n    return x\n",
    "components/guidance.py": "def guide(x):\n    return x\n",
    "components/reporting/page.py": "def page():\n    return 1\n",
    "components/telemetry/progress.py": "from components import guidance\n\ndef say(text):\n    print(text)\n",
    "components/models/model.py": "from components.masking import mask\n\ndef model(x):\n    return mask(x)\n",
    "pipeline/encode.py": '''"""Encode."""
from typing import TYPE_CHECKING
import torch
from components import flow
from components.telemetry.progress import say
if TYPE_CHECKING:
    from components.reporting import page


def encode(x):
    """Encode x."""
    from components.models.model import model

    say("encode")
    return model(flow.step(x))
''',
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def of(root: Path, *files: str) -> str:
    """The fingerprint as another process finds it."""
    code._fingerprint.cache_clear()
    code._module.cache_clear()
    return code.fingerprint(*(root / file for file in files), root=root)


def edited(root: Path, name: str, old: str, new: str) -> bool:
    """Whether an edit changes the code of pipeline/encode.py."""
    before, path = of(root, "pipeline/encode.py"), root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return of(root, "pipeline/encode.py") != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pipeline/encode.py", "flow.step(x)", "flow.step(2 * x)"),
        ("components/flow.py", "x + 1", "x + 2"),
        ("components/masking.py", "return x", "return -x"),  # by way of an import inside of a function
        ("components/models/model.py", "def model(x)", "def model(x, y=0)"),
        ("pipeline/encode.py", 'say("encode")', 'say("Encode")'),  # a string is code unless it is a docstring
    ],
)
def test_an_edit_of_a_function_that_is_imported_changes_the_code(tmp_path: Path, name: str, old: str, new: str) -> None:
    assert edited(plant(tmp_path, TREE), name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/telemetry/progress.py", "print(text)", "print(text, flush=True)"),
        ("components/guidance.py", "return x", "return -x"),  # imported by telemetry alone
        ("components/reporting/page.py", "return 1", "return 2"),  # imported for its types alone
        ("pipeline/encode.py", '"""Encode x."""', '"""Return the code of x."""'),
        ("pipeline/encode.py", '"""Encode."""\n', '"""Encode\n\nslowly."""\n# a comment\n'),
        ("components/flow.py", "return x + 1", "return (x +\n        1)  # a step"),
    ],
)
def test_an_edit_of_prose_or_of_what_nothing_depends_on_leaves_the_code(
    tmp_path: Path, name: str, old: str, new: str
) -> None:
    assert not edited(plant(tmp_path, TREE), name, old, new)


def test_files_that_are_named_together_are_one_code_in_any_order(tmp_path: Path) -> None:
    root = plant(tmp_path, TREE)
    both = of(root, "pipeline/encode.py", "components/guidance.py")
    assert both == of(root, "components/guidance.py", "pipeline/encode.py")
    assert both != of(root, "pipeline/encode.py")
    assert code.closure("pipeline/encode.py", root=root) == {
        "pipeline/encode.py", "components/flow.py", "components/models/model.py",
        "components/masking.py",
    }  # fmt: skip


PLACES = {  # where results are cached -> some of the files whose functions compute them
    "pipeline/encoding/moments.py": ["pipeline/encoding/moments.py", "components/datasets/latents.py"],
    "pipeline/encoding/resolutions.py": ["pipeline/encoding/moments.py", "components/datasets/resizing.py"],
    "components/models/conditions/encoders.py": ["components/datasets/actions.py"],
    "components/sampling/batches.py": ["components/sampling/frame.py", "components/models/flow.py"],
    "components/metrics/distances/features.py": ["components/metrics/distances/i3d.py"],
    "components/sources/cutting.py": ["components/video/video.py", "components/sources/bair.py"],
    "pipeline/tuning/sampler_trials.py": ["components/metrics/distances/fvd.py", "pipeline/tuning/suggest.py"],
    "pipeline/tuning/training_trials.py": ["components/training/loop.py", "pipeline/tuning/search_space.py"],
    "pipeline/fitting/workers.py": ["components/training/optimizer.py", "components/training/checkpoints.py"],
    "components/models/latent_training.py": ["components/datasets/loading.py", "components/models/masking.py"],
}
OUTSIDE = [
    "components/telemetry/progress.py",
    "components/telemetry/tracking.py",
    "components/reporting/page.py",
    "pipeline/monitoring/previews.py",
    "pipeline/report.py",
    "pipeline/commands/serve.py",
]


def test_each_cached_result_of_this_project_depends_on_its_own_code_and_not_on_what_records_it(tmp_path: Path) -> None:
    for package in code.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def every() -> dict[str, str]:
        of(tmp_path, "components/models/flow.py")  # read again
        return {place: code.fingerprint(tmp_path / place, root=tmp_path) for place in PLACES}

    def edit(files: Iterable[str]) -> None:
        for file in files:
            with (tmp_path / file).open("a", encoding="utf-8") as text:
                text.write("\n\ndef added():\n    return 1\n")

    before = every()
    edit(OUTSIDE)
    assert every() == before
    assert [(place, file) for place in PLACES for file in PLACES[place] if file not in code.closure(place)] == []
    edit({file for files in PLACES.values() for file in files})
    after = every()
    assert [place for place in PLACES if after[place] == before[place]] == []
