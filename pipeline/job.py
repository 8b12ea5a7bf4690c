"""Command `job`: what a submitted job runs on the cluster, a look around or a whole project without shared storage."""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.errors import InputError
from pipeline import homecoming, preflight, stage
from pipeline.progress import complain, say

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray tells a job's process about it, its name among it


def main() -> None:
    """Looks at the cluster that it runs on, or runs `dvc repro` between a pull and a push; `submit` starts it."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.job", description=main.__doc__)
    parser.add_argument("what", choices=("look", "run"))
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages of dvc.yaml; all of them without")
    parser.add_argument("--remote", metavar="NAME", help="DVC's remote, where no storage is shared")
    arguments = parser.parse_args()
    with stage.command() as root:
        if arguments.what == "look":
            say(preflight.line(_look(root, arguments.remote)))
        else:
            sys.exit(_run(root, arguments.remote, arguments.targets))


def _look(root: Path, remote: str | None) -> dict[str, Any]:
    from pipeline import jobs

    store = os.environ["MLFLOW_TRACKING_URI"]
    try:
        if remote is None:
            resources, nodes = jobs.on_every_node(functools.partial(preflight.look, str(root), store))
            return {"resources": resources, "nodes": nodes}
        resources, _ = jobs.on_every_node(dict)
    except InputError as error:
        return {"error": str(error)}
    _dvc("config", "--local", "core.no_scm", "true")  # what was sent is no git repository
    problem = preflight.remote_unreachable(root, remote)
    sentence = f"the DVC remote {remote} cannot be written from the cluster ({problem}); correct it, or its credentials"
    here = {"node": os.uname().nodename, **preflight.look(str(root), store)}
    return {"resources": resources, "nodes": [here], "remote": sentence if problem else ""}


def _run(root: Path, remote: str, targets: list[str]) -> int:
    # data lie on this node alone, so its stages start a Ray of their own, without the cluster's packages
    os.environ.pop("RAY_ADDRESS", None)
    known = json.loads(os.environ.get(JOB, "{}"))
    os.environ[JOB] = json.dumps({"metadata": known.get("metadata", {})})
    os.environ |= {"PYTHONPATH": str(root), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = homecoming.stages(root)
    _dvc("config", "--local", "core.no_scm", "true")
    _dvc("config", "--local", "core.remote", remote)
    status = _dvc("repro", "--pull", *targets)
    fresh = homecoming.changed(root, before)
    pushed = _dvc("push", "--run-cache", *fresh) if fresh else 0
    if pushed:
        complain(f"error: the outputs of {', '.join(fresh)} could not be pushed to the DVC remote {remote}")
    else:
        for line in homecoming.pack(root, before):
            say(line)
    return status or pushed


def _dvc(*words: str) -> int:
    return subprocess.run((sys.executable, "-m", "dvc", *words)).returncode


if __name__ == "__main__":
    main()
