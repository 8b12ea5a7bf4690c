"""One tree of MLflow runs for each row and state of its inputs: a parent run with the runs of the row's stages below.

A stage that reads no trained model belongs to the tree of its settings and inputs. A stage that reads one belongs to
the tree of the training that wrote the model, so that another sampler or a repeated stage adds to the same tree.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from components.telemetry import store

PARENT: Final = "mlflow.parentRunId"
MODEL: Final = "input.model"  # tag with the hash of the trained model that a stage reads
OUTPUT: Final = "output"  # tag with the hash of the files that a stage wrote


@dataclass(frozen=True, slots=True)
class Place:
    """The parent run of a stage, whether it was created now, and the training's logged model if there is one."""

    parent: str
    new: bool
    model: str | None


def place(client: Any, experiment: str, tags: Mapping[str, str]) -> Place:
    """Find the parent run for the stage with these tags, or create it, and mark it as running in this process."""
    row, key = tags["row"], _key(tags)
    if trained := tags.get(MODEL):
        queries = [f"tags.`{name}` = '{trained}' and tags.row = '{row}'" for name in (OUTPUT, MODEL)]
    else:
        queries = [f"tags.part = '{store.ROW}' and tags.inputs = '{key}' and tags.row = '{row}'"]
    for query in queries:
        for found in client.search_runs([experiment], query):
            parent = found.info.run_id if found.data.tags.get("part") == store.ROW else found.data.tags.get(PARENT)
            if parent and _is_active(client, parent):
                client.set_tag(parent, "process", store.process())
                client.update_run(parent, status="RUNNING")
                return Place(parent, new=False, model=_model(found) if OUTPUT in query else None)
    known = {"part": store.ROW, "row": row, "inputs": key, "mlflow.user": store.user(), "process": store.process()}
    kept = {name: tags[name] for name in ("commit", "dvc_experiment", "ray_job") if name in tags}
    return Place(client.create_run(experiment, tags=known | kept, run_name=row).info.run_id, new=True, model=None)


def _key(tags: Mapping[str, str]) -> str:
    """Return the hash of a stage's row, settings and inputs."""
    read = {name: value for name, value in tags.items() if name in ("row", "params") or name.startswith("input.")}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]


def _is_active(client: Any, run: str) -> bool:
    """Return whether a run exists and was not deleted in MLflow's UI."""
    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except Exception as error:
        if "not found" in str(error).lower():
            return False
        raise


def _model(trained: Any) -> str | None:
    """Return the id of the logged model that a training run wrote."""
    written = trained.outputs.model_outputs if trained.outputs else []
    return written[-1].model_id if written else None
