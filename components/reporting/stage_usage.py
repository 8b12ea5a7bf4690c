"""Resource usage of each stage's last finished run, read from the files that the stages leave in data/usage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from components.foundation.files import AGAIN, brief, read_json


@dataclass(frozen=True, slots=True)
class StageUsage:
    """Resource usage of the last finished run of a stage."""

    stage: str
    row: str
    run: str  # id of the MLflow run
    commit: str
    seconds: float
    memory: float  # MiB, peak of the largest process
    cpu_hours: float
    gpu_hours: float
    cost: str  # cost with its currency, from `prices`; empty without prices
    machine: str
    ended: float  # seconds since 1970
    tags: Mapping[str, str]  # of the MLflow run: commit, versions and machine


def read_usage(folder: Path) -> list[StageUsage]:
    """Return the usage of every stage and row, ordered by end time. Raises InputError for a damaged file."""
    return sorted((_read(path) for path in sorted(folder.glob("*/*.json"))), key=lambda usage: usage.ended)


def _read(path: Path) -> StageUsage:
    content: dict[str, Any] = read_json(path)
    tags = content.get("tags", {})
    costs = [f"{value:.3g} {key.removeprefix('cost_')}" for key, value in content.items() if key.startswith("cost_")]
    try:
        return StageUsage(
            stage=str(content["stage"]),
            row=str(content["row"]),
            run=str(content["run"]),
            commit=tags.get("commit", "")[:10],
            seconds=float(content["seconds"]),
            memory=float(content["peak_memory_mib"]),
            cpu_hours=float(content["cpu_hours"]),
            gpu_hours=float(content["gpu_hours"]),
            cost=", ".join(costs),
            machine=", ".join(filter(None, (f"{tags.get('cpus', '?')} CPU cores", tags.get("gpu")))),
            ended=float(content["ended"]),
            tags=dict(tags),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not have the format of a stage's usage ({brief(error)}); {AGAIN}") from None
