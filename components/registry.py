"""Registered models: what a trained experiment is served as, in a version of its own, without any pickle.

The second door to mlflow, which is imported when a model is first registered.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from components import tracking
from components.tracking import Run

ALIAS: Final = "current"  # of the version that was made last
NEEDED: Final = (
    "torch", "torchvision", "timm", "einops", "jaxtyping", "safetensors", "numpy", "pandas", "pyarrow", "pydantic",
    "pyyaml", "av", "rich", "psutil", "mlflow",
)  # fmt: skip

_log = logging.getLogger(__name__)


def register(
    run: Run,
    name: str,
    entry: Path,
    *,
    code: Sequence[Path],
    parts: Mapping[str, Path],
    shape: tuple[int, ...],
    choices: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str | None:
    """A new version of the model `name`, under the alias `current`; its number, None where the store is out of reach.

    `entry` is the file of code that a server runs, `code` what it imports, `parts` the files and folders that it loads,
    `choices` what a request may set beside the video. `shape` of a clip's frames is "c h w", of whole numbers 0 to 255.
    """
    try:
        return _register(run, name, entry, code, parts, shape, choices, tags)
    except Exception as error:  # whatever a store does, the work goes on
        _log.warning("the model %s cannot be registered: %s", name, " ".join(str(error).split())[:200])
        return None


def _register(
    run: Run,
    name: str,
    entry: Path,
    code: Sequence[Path],
    parts: Mapping[str, Path],
    shape: tuple[int, ...],
    choices: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = tracking.connect(run.handle.uri)
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    kinds = {int: "long", float: "double", str: "string"}
    video = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, *shape))])
    asked = ParamSchema([ParamSpec(key, kinds[type(value)], value) for key, value in choices.items()])
    with tempfile.TemporaryDirectory() as aside:
        copies = [_copied(path, Path(aside) / "code" / path.name) for path in code]
        folder = Path(aside) / "served"
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(entry),
            artifacts={key: str(path.resolve()) for key, path in parts.items()},
            code_paths=[str(copy) for copy in copies],
            signature=ModelSignature(video, video, asked),
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in NEEDED],
        )
        client.log_artifacts(run.id, str(folder), "served")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{client.get_run(run.id).info.artifact_uri}/served"
    version = client.create_model_version(name, source, run.id, tags=dict(tags)).version
    client.set_registered_model_alias(name, ALIAS, version)
    return str(version)


def _copied(code: Path, to: Path) -> Path:
    return Path(shutil.copytree(code, to, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))
