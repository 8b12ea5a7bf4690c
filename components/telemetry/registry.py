"""Logged models of runs, and registered versions of them, without pickle.

Besides `tracking`, `trees`, `views` and `store`, the only module that uses mlflow, which is imported when a model is
first logged.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from components.telemetry import store, tracking
from components.telemetry.tracking import Run

ALIAS: Final = "current"  # points to the newest version that no experiment of DVC wrote
NEEDED: Final = (
    "torch", "torchvision", "timm", "einops", "jaxtyping", "safetensors", "numpy", "pandas", "pyarrow", "pydantic",
    "ruamel.yaml", "av", "rich", "psutil", "mlflow",
)  # fmt: skip

_log = logging.getLogger(__name__)


def log_weights(run: Run, folder: Path, *, data: str) -> None:
    """Store the folder of a trained model as the run's logged model; warn if that fails.

    The scores of the run are attached to the logged model, with the data set that was logged with the context `data`.
    """
    _logged(run, run.row, "weights", data, lambda client, model: client.log_model_artifacts(model, str(folder)))


def register(
    run: Run,
    row: str,
    entry: Path,
    *,
    data: str,
    code: Sequence[Path],
    parts: Mapping[str, Path],
    shape: tuple[int, ...],
    choices: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str | None:
    """Store a model that predicts as the run's logged model, and register it as a new version of the row's model.

    `entry` is the Python file that MLflow loads as the model, `code` the packages it imports, and `parts` the files
    and folders it reads. `choices` are the parameters of a request with their defaults. `shape` is (c, h, w) of the
    uint8 frames. `data` is the context of the data set of the run's scores. The alias `current` moves to the version,
    unless an experiment of DVC made it. Return the version number, or None after a warning if registering fails.
    """

    def save(client: Any, model: str) -> None:
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside) / "served"
            _save(folder, model, entry, Path(aside) / "code", code, parts, shape, choices)
            client.log_model_artifacts(model, str(folder))

    model = _logged(run, row, "predictor", data, save)
    if model is None:
        return None
    name = registered_name(row)
    with _tolerated(f"the model {name} cannot be registered"):
        client = tracking.connect(run.handle.uri)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        experiment = os.environ.get("DVC_EXP_NAME")
        known = dict(tags) if experiment is None else {**tags, "dvc_experiment": experiment}
        with _store_of_process(run.handle.uri):
            made = client.create_model_version(name, f"models:/{model}", run.id, tags=known, model_id=model)
        if experiment is None:
            client.set_registered_model_alias(name, ALIAS, made.version)
        return str(made.version)
    return None


@contextmanager
def _store_of_process(uri: str) -> Iterator[None]:
    """Make `uri` the process's store for the block: MLflow looks up `models:/ID` there, not in the client's store."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def registered_name(row: str) -> str:
    """Return the name of a row's registered model; teams that share a server have experiments of their own."""
    return f"{store.experiment_name()}-{row}"


def _logged(run: Run, name: str, kind: str, data: str, save: Callable[[Any, str], None]) -> str | None:
    """Create a logged model, let `save` write its files, and link it to the run; None after a warning."""
    with _tolerated(f"the model {name} of run {run.id} cannot be logged"):
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        client = tracking.connect(run.handle.uri)
        settings = run.settings
        model = client.create_logged_model(run.handle.experiment, name, run.id, params=settings, model_type=kind)
        try:
            save(client, model.model_id)
        except Exception:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
        client.finalize_logged_model(model.model_id, "READY")
        run.wrote_model(model.model_id, data)
        return str(model.model_id)
    return None


@contextmanager
def _tolerated(problem: str) -> Iterator[None]:
    """Turn every error in the block into a warning: a failing store must not stop the stage."""
    try:
        yield
    except Exception as error:
        _log.warning("%s: %s", problem, store.brief(error))


def _save(
    folder: Path,
    model: str,
    entry: Path,
    aside: Path,
    code: Sequence[Path],
    parts: Mapping[str, Path],
    shape: tuple[int, ...],
    choices: Mapping[str, Any],
) -> None:
    """Write the files of a model that MLflow can load, with its code; `aside` is a folder for copies of the code."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    kinds = {int: "long", float: "double", str: "string"}
    video = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, *shape))])
    parameters = ParamSchema([ParamSpec(key, kinds[type(value)], value) for key, value in choices.items()])
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(entry),
        artifacts={key: str(path.resolve()) for key, path in parts.items()},
        code_paths=[str(_copied(path, aside / path.name)) for path in code],
        signature=ModelSignature(video, video, parameters),
        pip_requirements=[f"{package}=={metadata.version(package)}" for package in NEEDED],
        mlflow_model=Model(model_id=model),
    )


def _copied(code: Path, to: Path) -> Path:
    return Path(shutil.copytree(code, to, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))
