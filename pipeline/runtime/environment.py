"""Environment variables of every process: telemetry off, Ray's token authentication on, the MLflow tracking URI."""

import os
import secrets
from pathlib import Path

from components.foundation import allocator
from components.telemetry import store

VARIABLES = {
    "RAY_AUTH_MODE": "token",  # other users of this machine or of the cluster's network must not submit work
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # otherwise a thread that outlives its cluster would start another one
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # delay until a report is collected; Ray's default is 2
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",  # waits for resources of other jobs; the total is checked before
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # disables Tune's output; the project prints its own progress
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # a killed search loses the trials since the last save
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "false",
}
STORAGE = "CANVASMAR_STORAGE"  # path or URI of checkpoints; no setting, because it changes no result
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" on any system: Ray's processes listen on loopback only


def apply(root: Path) -> None:
    """Set the variables that the user's shell has not set, and a random Ray token if the user has none.

    Without RAY_ADDRESS, the Ray that this process starts listens on loopback only.
    """
    allocator.keep()
    _bypass_proxy()
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(ONE_MACHINE, "0")
    for name, value in variables(root).items():
        os.environ.setdefault(name, value)
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(os.path.expanduser("~/.ray/auth_token"))  # Path.home fails for a user without a home
    if os.environ["RAY_AUTH_MODE"] == "token" and not token and not file.exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _bypass_proxy() -> None:
    """Exempt this machine from the user's proxy, which would otherwise get the requests to our own servers."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    direct = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for hosts in direct for host in hosts.split(",") if host.strip()]
    hosts += ["localhost", "127.0.0.1", "::1"]
    for name in ("no_proxy", "NO_PROXY"):  # some programs read only one of them
        os.environ[name] = ",".join(dict.fromkeys(hosts))


def variables(root: Path) -> dict[str, str]:
    """Return the environment variables for the project in this folder, for a shell or for the workers of a cluster."""
    return {
        **VARIABLES,
        **allocator.VARIABLES,
        "MLFLOW_TRACKING_URI": store.local_uri(root),
        "PYTHONPATH": str(root.resolve()),
    }
