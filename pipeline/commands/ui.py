"""Command `ui`: start the MLflow UI on loopback, and print links to views that answer what a user asks of the runs.

Two questions have a link each: which settings gave this FVD, and how the score of each search depends on its settings.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from components.foundation.errors import InputError
from components.telemetry import tracking, views
from components.telemetry.progress import say
from components.telemetry.store import ROW
from components.telemetry.views import View
from pipeline.runtime import network

PORT = "MLFLOW_UI_PORT"
SCORES: Final = ("fvd", "psnr", "ssim", "lpips", "milliseconds_per_frame")  # of an evaluation
TABLES: Final = ("recipe", "sampler", "model", "autoencoder", "dataset", "protocol")  # settings of an evaluation
ENDS: Final = ("", "_low", "_high")  # of the names of a score and of the ends of its interval
MOST_COLUMNS, MOST_CHARTS = 30, 8


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
    found = links(tracking.connect(uri), experiment, base)
    width = max(map(len, found)) + 2
    for name, link in found.items():
        say(f"{name + ':':<{width}}{link}")
    if remote:
        return
    say("Press Ctrl-C to stop the server.")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # saves ten processes of an unused feature
    server = ["server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    allowed = ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *server, *allowed])


def links(client: Any, experiment: str, base: str) -> dict[str, str]:
    """Return the links to the main pages by name, and to the evaluations and each row's last search if there are any.

    The views behind the links are stored in the experiment.
    """
    rows = client.search_runs([experiment], f"tags.part = '{ROW}'")
    runs = View("rows", "", (*SCORES, "fvd_best", "validation_loss"), views.varying(rows, TABLES)[:MOST_COLUMNS])
    pages = {"runs": views.link(client, base, experiment, runs, charts=False)}
    if scored := client.search_runs([experiment], "tags.stage = 'evaluate' and attributes.status = 'FINISHED'"):
        by_fvd = evaluations(scored)
        pages["settings by FVD"] = views.link(client, base, experiment, by_fvd, charts=False)
        pages["FVD by setting"] = views.link(client, base, experiment, by_fvd, charts=True)
    for row, run in last_searches(client, experiment).items():
        trials = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
        pages[f"search of {row}"] = views.link(client, base, experiment, search(row, run, trials), charts=True)
    mode = urlencode(views.MODE)
    pages["models by FVD"] = f"{base}/#/experiments/{experiment}/models?{mode}"
    pages["versions"] = f"{base}/#/models?{mode}"
    return pages


def evaluations(scored: list[Any]) -> View:
    """Return the view of all evaluations: scores beside the settings that differ, and FVD against each of these."""
    chosen = views.varying(scored, TABLES)[:MOST_COLUMNS] or ("recipe.learning_rate",)
    axes = views.numeric(scored, chosen)[:MOST_CHARTS]
    return View("evaluations", "tags.stage = 'evaluate'", SCORES, chosen, order="fvd", score="fvd", axes=axes)


def search(row: str, run: Any, trials: list[Any]) -> View:
    """Return the view of a search's trials: settings, objectives with intervals and differences, a chart of each."""
    objectives = json.loads(run.data.params.get("search.objectives", '["fvd"]'))
    ends = [f"{name}{difference}{end}" for name in objectives for difference in ("", "_difference") for end in ENDS]
    metrics = tuple(name for name in ends if any(name in trial.data.metrics for trial in trials))
    chosen = views.varying(trials, ())
    axes = views.numeric(trials, chosen)[:MOST_CHARTS]
    below = f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    first = objectives[0]
    return View(f"search-{row}", below, metrics, chosen, order=first, score=first, axes=axes)


def last_searches(client: Any, experiment: str) -> dict[str, Any]:
    """Return the last search of each row by its name."""
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment], "tags.stage = 'sweep'", order_by=["attributes.start_time DESC"]):
        found.setdefault(run.data.tags.get("row", run.info.run_name), run)
    return dict(sorted(found.items()))
