"""Command `ui`: the MLflow UI on this machine's loopback, with the link that shows the runs as a table."""

import os
import sys
from pathlib import Path

from components import tracking
from pipeline import environment
from pipeline.progress import say


def main() -> None:
    """Starts MLflow's server in this process's place; MLFLOW_UI_PORT chooses another port than 5000."""
    root = Path.cwd()
    environment.apply(root)
    where = tracking.uri(root)
    if where.startswith(("http://", "https://")):
        say(f"runs are kept by the server at {where}: open it in a browser")
        return
    experiment = tracking.prepare(where, root)
    port = os.environ.get("MLFLOW_UI_PORT", "5000")
    base = f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    say(f"table of runs: {base}\ncharts:        {base}&compareRunsMode=CHART\nCtrl-C ends it")
    words = ["server", "--backend-store-uri", where, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    allowed = ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words, *allowed])


if __name__ == "__main__":
    main()
