"""Entry point of a submitted job: check the cluster, or run a whole project without shared storage."""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from components.foundation.config import read_yaml
from components.foundation.errors import InputError
from components.telemetry.progress import complain, say
from pipeline.jobs import lock_transfer, preflight
from pipeline.runtime import stage

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in it, Ray passes the job's config and metadata to the job's process

BUSY = "is busy, it is being blocked by"  # DVC's message if another `dvc repro` of the project holds a path
BUSY_SECONDS = 5.0  # between two attempts


def main() -> None:
    """Check the cluster of this job, or run `dvc repro`. Started by `canvasmar submit`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.jobs.entrypoint", description=main.__doc__)
    parser.add_argument("action", choices=("look", "repro", "run"))
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages of dvc.yaml; default: all")
    parser.add_argument("--remote", metavar="NAME", help="DVC remote, without shared storage")
    arguments = parser.parse_args()
    with stage.command() as root:
        if arguments.action == "look":
            say(preflight.format_report(_cluster_report(root, arguments.remote)))
        elif arguments.action == "repro":
            if not arguments.targets:
                _check_videos(root)
            sys.exit(_repro(arguments.targets))
        else:
            sys.exit(_run(root, arguments.remote, arguments.targets))


def _cluster_report(root: Path, remote: str | None) -> dict[str, Any]:
    """Return what `preflight.check_cluster` needs: resources, a report of each node, and the remote's problem."""
    from pipeline.jobs import ray_jobs

    store = os.environ["MLFLOW_TRACKING_URI"]
    try:
        if remote is None:
            resources, nodes = ray_jobs.run_on_every_node(functools.partial(preflight.node_report, str(root), store))
            return {"resources": resources, "nodes": nodes}
        resources, _ = ray_jobs.run_on_every_node(dict)
    except InputError as error:
        return {"error": str(error)}
    _dvc("config", "--local", "core.no_scm", "true")  # the uploaded code is not a git repository
    problem = preflight.remote_problem(root, remote)
    message = f"the cluster cannot write to the DVC remote {remote} ({problem}); correct its URL or its credentials"
    this_node = {"node": os.uname().nodename, **preflight.node_report(str(root), store)}
    return {"resources": resources, "nodes": [this_node], "remote": message if problem else ""}


def _check_videos(root: Path) -> None:
    """Raise InputError if DVC cannot read the folder of a data set."""
    from components.sources import sources  # which imports torch, slowly

    sources.check(read_yaml(root / "params.yaml"), "params.yaml")


def _repro(targets: list[str]) -> int:
    """Run `dvc repro` on shared storage; while another job holds a stage that this one needs, wait. Return the status.

    Without the wait, DVC fails at once if it needs a path that another `dvc repro` is reading or writing.
    """
    waits = False
    while True:
        command = (sys.executable, "-m", "dvc", "repro", *targets)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        busy = False
        for line in process.stderr:
            busy |= BUSY in line
            sys.stderr.write(line)
            sys.stderr.flush()
        if not process.wait() or not busy:
            return process.returncode
        if not waits:
            complain("  another `dvc repro` of this project holds a stage that this job needs; waiting for it")
        waits = True
        time.sleep(BUSY_SECONDS)


def _run(root: Path, remote: str, targets: list[str]) -> int:
    """Run `dvc repro` on this node, push the outputs and print dvc.lock and metrics to the log; return the status."""
    # only this node has the data, so its stages start their own local Ray, without the job's runtime environment
    os.environ.pop("RAY_ADDRESS", None)
    config = json.loads(os.environ.get(JOB, "{}"))
    os.environ[JOB] = json.dumps({"metadata": config.get("metadata", {})})
    os.environ |= {"PYTHONPATH": str(root), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = lock_transfer.stages(root)
    _dvc("config", "--local", "core.no_scm", "true")
    _dvc("config", "--local", "core.remote", remote)
    status = _dvc("repro", "--pull", *targets)
    changed = lock_transfer.changed(root, before)
    push_status = _dvc("push", "--run-cache", *changed) if changed else 0
    if push_status:
        complain(
            f"error: the outputs of {', '.join(changed)} could not be pushed to the DVC remote {remote}, so "
            "your dvc.lock is not updated; make the remote writable or name another one, and submit the job again"
        )
    else:
        for line in lock_transfer.pack(root, before):
            say(line)
    return status or push_status


def _dvc(*arguments: str) -> int:
    return subprocess.run((sys.executable, "-m", "dvc", *arguments)).returncode


if __name__ == "__main__":
    main()
