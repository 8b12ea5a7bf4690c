"""The environment of every process of ours, in one place: telemetry off, Ray's token on, where runs are kept."""

import ctypes
import os
import secrets
import signal
import sys
from pathlib import Path

from components import heap, workspace

VARIABLES = {
    "RAY_AUTH_MODE": "token",  # a cluster listens on all interfaces: nobody else on the machine may give it work
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # until a report is collected; by default two seconds
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",  # for what other jobs hold; enough in all is checked before
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing then; we show our own progress
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # a search that is killed loses the trials of so many seconds
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "false",
}


def apply(root: Path) -> None:
    """Sets what the user's shell has not set; a cluster of our own gets a token of its own if the user has none."""
    heap.keep()
    for name, value in variables(root).items():
        os.environ.setdefault(name, value)
    known = (os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    if os.environ["RAY_AUTH_MODE"] == "token" and not any(known) and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def end_with_parent() -> None:
    """Ends this process when the one that started it dies: a killed `dvc repro` would leave its stage running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def variables(root: Path) -> dict[str, str]:
    """All of it for the project in this folder, for a shell or for the workers of a cluster."""
    return {
        **VARIABLES,
        **heap.VARIABLES,
        "MLFLOW_TRACKING_URI": f"sqlite:///{workspace.runs(root)}/mlflow.db",
        "PYTHONPATH": str(root.resolve()),
    }
