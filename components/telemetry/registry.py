"""Register trained experiments as versions of MLflow models, without pickle.

Besides `tracking` and `store`, the only module that uses mlflow, which is imported when a model is first registered.
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

from components.telemetry import tracking
from components.telemetry.tracking import Run

ALIAS: Final = "current"  # points to the newest version
NEEDED: Final = (
    "torch", "torchvision", "timm", "einops", "jaxtyping", "safetensors", "numpy", "pandas", "pyarrow", "pydantic",
    "ruamel.yaml", "av", "rich", "psutil", "mlflow",
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
    """Register a new version of the model `name` and move the alias `current` to it.

    `entry` is the Python file that MLflow loads as the model, `code` the packages it imports, and `parts` the files
    and folders it reads. `choices` are the parameters of a request with their defaults. `shape` is (c, h, w) of the
    uint8 frames. Return the version number, or None after a warning if registering fails.
    """
    try:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        client = tracking.connect(run.handle.uri)
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

        kinds = {int: "long", float: "double", str: "string"}
        video = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, *shape))])
        parameters = ParamSchema([ParamSpec(key, kinds[type(value)], value) for key, value in choices.items()])
        with tempfile.TemporaryDirectory() as aside:
            copies = [_copied(path, Path(aside) / "code" / path.name) for path in code]
            folder = Path(aside) / "served"
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(entry),
                artifacts={key: str(path.resolve()) for key, path in parts.items()},
                code_paths=[str(copy) for copy in copies],
                signature=ModelSignature(video, video, parameters),
                pip_requirements=[f"{package}=={metadata.version(package)}" for package in NEEDED],
            )
            client.log_artifacts(run.id, str(folder), "served")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{client.get_run(run.id).info.artifact_uri}/served"
        version = client.create_model_version(name, source, run.id, tags=dict(tags)).version
        client.set_registered_model_alias(name, ALIAS, version)
        return str(version)
    except Exception as error:  # a failing store must not stop the stage
        _log.warning("the model %s cannot be registered: %s", name, " ".join(str(error).split())[:200])
        return None


def _copied(code: Path, to: Path) -> Path:
    return Path(shutil.copytree(code, to, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))
