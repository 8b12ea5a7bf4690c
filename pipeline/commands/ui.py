"""Command `ui`: start the MLflow UI on loopback, and print links to the runs and to the trials of the last search."""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.foundation.errors import InputError
from components.telemetry import tracking
from components.telemetry.progress import say
from pipeline.runtime import network

PORT = "MLFLOW_UI_PORT"


def run(root: Path) -> None:
    """Print the links, then replace this process by MLflow's server on port MLFLOW_UI_PORT (5000 by default).

    If MLFLOW_TRACKING_URI is the address of a server, print links to that server and start none. Raise InputError if
    that server does not answer, or if the port or the database cannot be used.
    """
    uri = tracking.uri(root)
    port = os.environ.get(PORT, "5000")
    remote = uri.startswith(("http://", "https://"))
    if not remote:
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise InputError(f"{PORT} is {port!r}; set it to a port from 1 to 65535, or unset it")
        network.require_free_port(int(port), PORT)
    experiment = tracking.prepare(uri, root)
    base = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
    for name, link in links(tracking.connect(uri), experiment, base).items():
        say(f"{name + ':':<17}{link}")
    if remote:
        return
    say("Press Ctrl-C to stop the server.")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # saves ten processes of an unused feature
    server = ["server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    allowed = ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *server, *allowed])


def links(client: Any, experiment: str, base: str) -> dict[str, str]:
    """Return the links to the main pages by name, and to the last search and its trials if there is a search."""
    mode = "workflowType=machine_learning"  # otherwise MLflow opens its pages for prompts and traces
    table = f"{base}/#/experiments/{experiment}/runs?{mode}"
    pages = {"table of runs": table, "charts": f"{table}&compareRunsMode=CHART", "models": f"{base}/#/models?{mode}"}
    last = client.search_runs([experiment], "tags.stage = 'sweep'", max_results=1)
    if last:
        pages["last search"] = f"{base}/#/experiments/{experiment}/runs/{last[0].info.run_id}?{mode}"
        children = f"tags.mlflow.parentRunId = '{last[0].info.run_id}'"
        trials = [run.info.run_id for run in client.search_runs([experiment], children)]
        query = f"runs={quote(json.dumps(trials))}&experiments={quote(json.dumps([experiment]))}"
        pages["its trials"] = f"{base}/#/compare-runs?{query}&{mode}"
    return pages
