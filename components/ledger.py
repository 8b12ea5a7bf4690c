"""What each stage took when it last ran to its end, read from the runs in MLflow."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import tracking

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """The last finished run of a stage: what it took, and where."""

    stage: str
    row: str
    run: str
    commit: str
    seconds: float
    memory: float  # MiB, of a process, at most
    cpu_hours: float
    gpu_hours: float
    paid: str  # in the currency of `prices`; empty without prices
    machine: str


def costs(root: Path) -> list[Cost]:
    """Of every stage and row, in the order in which they ended; none if there are no runs or the store is away."""
    try:
        client = tracking.connect(tracking.uri(root))
        experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
        order = ["attributes.end_time DESC"]
        runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=order)
    except Exception as error:  # a report without its costs is better than none
        _log.warning("what the stages took cannot be read from MLflow (%s)", type(error).__name__)
        return []
    found: dict[tuple[str, str], Cost] = {}
    for one in runs:
        if "stage" in one.data.tags and "stage_seconds" in one.data.metrics:
            cost = _cost(one)
            found.setdefault((cost.stage, cost.row), cost)
    return list(found.values())[::-1]


def _cost(run: Any) -> Cost:
    told, numbers = run.data.tags, run.data.metrics
    paid = [f"{value:.3g} {key.removeprefix('cost_')}" for key, value in numbers.items() if key.startswith("cost_")]
    return Cost(
        stage=told["stage"],
        row=told.get("row", ""),
        run=run.info.run_id,
        commit=told.get("commit", "")[:10],
        seconds=numbers["stage_seconds"],
        memory=numbers.get("peak_memory_mib", float("nan")),
        cpu_hours=numbers.get("cpu_hours", float("nan")),
        gpu_hours=numbers.get("gpu_hours", float("nan")),
        paid=", ".join(paid),
        machine=", ".join(filter(None, (f"{told.get('cpus', '?')} CPU cores", told.get("gpu")))),
    )
