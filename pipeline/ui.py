"""Command `ui`: the MLflow UI on loopback, with links to the runs and to the trials of the last search."""

import json
import os
import sys
from typing import Any
from urllib.parse import quote

from components import tracking
from pipeline import stage
from pipeline.progress import say


def main() -> None:
    """Starts MLflow's server in this process's place; MLFLOW_UI_PORT chooses another port than 5000."""
    with stage.command() as root:
        where = tracking.uri(root)
        experiment = tracking.prepare(where, root)
        port = os.environ.get("MLFLOW_UI_PORT", "5000")
        served = where.startswith(("http://", "https://"))
        base = where.rstrip("/") if served else f"http://127.0.0.1:{port}"
        for name, link in links(tracking.connect(where), experiment, base).items():
            say(f"{name + ':':<17}{link}")
    if served:
        return
    say("Ctrl-C ends it")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # ten more processes, for what we do not use
    words = ["server", "--backend-store-uri", where, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    allowed = ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words, *allowed])


def links(client: Any, experiment: str, base: str) -> dict[str, str]:
    """Pages worth opening, by name; the trials of the last search side by side where there was one."""
    models = "workflowType=machine_learning"  # MLflow begins with the pages for prompts and traces otherwise
    table = f"{base}/#/experiments/{experiment}/runs?{models}"
    found = {"table of runs": table, "charts": f"{table}&compareRunsMode=CHART", "models": f"{base}/#/models?{models}"}
    last = client.search_runs([experiment], "tags.stage = 'sweep'", max_results=1)
    if last:
        found["last search"] = f"{base}/#/experiments/{experiment}/runs/{last[0].info.run_id}?{models}"
        below = f"tags.mlflow.parentRunId = '{last[0].info.run_id}'"
        trials = [run.info.run_id for run in client.search_runs([experiment], below)]
        asked = f"runs={quote(json.dumps(trials))}&experiments={quote(json.dumps([experiment]))}"
        found["its trials"] = f"{base}/#/compare-runs?{asked}&{models}"
    return found


if __name__ == "__main__":
    main()
