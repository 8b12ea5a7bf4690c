"""Command `submit`: `dvc repro`, a stage or a row of it, as a Ray Job on a cluster."""

import argparse
import getpass
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import tracking
from components.config import read_yaml
from components.errors import InputError
from pipeline import environment, homecoming, preflight, stage
from pipeline.progress import complain, say

LOOK_SECONDS = 180.0
STOP_SECONDS = "120"  # a stage that is told to stop writes a checkpoint first; Ray gives it three by default
ROW_ENDS_WITH = "evaluate"  # the last stage that belongs to a row of experiments; what comes before runs with it
FAILED, DETACHED = 1, 130


@dataclass(frozen=True, slots=True)
class Submission:
    """What runs where: the project's place on the cluster, or None if its code is sent; DVC's remote in that case."""

    targets: tuple[str, ...]
    workers: dict[str, int]  # of each recipe that will train
    root: Path | None
    remote: str | None
    python: str
    store: str
    cpus: float
    gpus: float

    def command(self, *words: str) -> str:
        """A line for the shell of the node that the job is given to."""
        line = shlex.join([self.python, "-m", *words])
        if self.root is None:
            return line
        place, programs = shlex.quote(str(self.root)), shlex.quote(str(Path(self.python).parent))
        return f"cd {place} && PATH={programs}:$PATH exec {line}"

    def variables(self) -> dict[str, str]:
        """What its processes find in their environment; no password is among them, Ray's dashboard shows it all."""
        known = environment.variables(self.root or Path("."))
        if self.root is None:
            del known["PYTHONPATH"]
        ours = {"MLFLOW_TRACKING_URI": self.store, "RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS}
        # each stage sets the same for its workers when it joins, which Ray refuses otherwise
        return {**known, **ours, "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1", "PYTHONUNBUFFERED": "1"}


def main() -> None:
    """Runs `dvc repro` on a Ray cluster and shows its log until it ends; leaves with the job's own status."""
    arguments = _parser().parse_args()
    with stage.command() as root:
        from pipeline.jobs import Jobs  # after the environment: Ray reads it when it is imported

        known = arguments.status or arguments.stop or arguments.follow
        jobs = Jobs(arguments.address, any_version=bool(known or arguments.list))
        if arguments.list:
            say("\n".join(one.line() for one in jobs.all()) or f"no job was submitted to {jobs.address} yet")
        elif arguments.status:
            found = jobs.job(arguments.status)
            say(f"{found.line()}\n{found.message}")
        elif arguments.stop:
            asked = jobs.stop(arguments.stop)
            say("the job is told to stop" if asked else f"nothing to stop: {jobs.job(arguments.stop).line()}")
        elif arguments.follow:
            sys.exit(_follow(jobs, arguments.follow, root))
        else:
            sys.exit(_submit(jobs, _submission(arguments, root), root, arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.submit", description=main.__doc__)
    target = "a stage of dvc.yaml (train, train@ROW) or a row of experiments; everything without one"
    parser.add_argument("target", nargs="?", metavar="STAGE|ROW", help=target)
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard; default: RAY_API_SERVER_ADDRESS")
    parser.add_argument("--root", type=Path, metavar="PATH", help="this project on the cluster; default: this folder")
    only = "send the code instead: one node runs it all, data go through a DVC remote"
    parser.add_argument("--code-only", action="store_true", help=only)
    parser.add_argument("--remote", metavar="NAME", help="that DVC remote; default: the one of .dvc/config")
    python = "Python on the cluster; default: this one's path, or `python` with --code-only"
    parser.add_argument("--python", metavar="PATH", help=python)
    held = "that the job's own process holds on one node; default 0, and with --code-only what the node must give"
    parser.add_argument("--cpus", type=float, default=0.0, metavar="N", help=f"CPUs {held}")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help=f"GPUs {held}")
    parser.add_argument("--check", action="store_true", help="look whether it would run, and submit nothing")
    parser.add_argument("--detach", action="store_true", help="submit and leave")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--list", action="store_true", help="all jobs of the cluster")
    others.add_argument("--status", metavar="ID", help="how a job is")
    others.add_argument("--stop", metavar="ID", help="end a job; a training writes a checkpoint first")
    others.add_argument("--follow", metavar="ID", help="show a job's log until it ends, and bring home what it left")
    return parser


def _submission(arguments: argparse.Namespace, root: Path) -> Submission:
    params = read_yaml(root / "params.yaml")
    targets = stages_of(arguments.target, read_yaml(root / "dvc.yaml"), params)
    store = tracking.uri(root)
    if not arguments.code_only:
        there = arguments.root or root
        if arguments.root and store.startswith("sqlite:"):
            store = tracking.uri(there)
        return Submission(
            targets, workers_of(targets, params), there, None, arguments.python or sys.executable, store,
            arguments.cpus, arguments.gpus,
        )  # fmt: skip
    remote = preflight.remote(root, arguments.remote)
    if store.startswith("sqlite:"):
        raise InputError(
            "runs of a job without shared storage would be lost with its folder; "
            "set MLFLOW_TRACKING_URI to the address of an MLflow server"
        )
    return Submission(
        targets, workers_of(targets, params), None, remote, arguments.python or "python", store,
        arguments.cpus or 1.0, arguments.gpus,
    )  # fmt: skip


def stages_of(target: str | None, pipeline: dict[str, Any], params: dict[str, Any]) -> tuple[str, ...]:
    """What `dvc repro` is given for a stage or a row; nothing for everything. Raises InputError if there is no such."""
    if target is None:
        return ()
    rows, known = params.get("experiments") or {}, pipeline.get("stages") or {}
    name, _, row = target.partition("@")
    entries = _rows(known.get(name, {}), params)
    if name in known and (not row or row in entries):
        return (target,)
    if target in rows:
        return (f"{ROW_ENDS_WITH}@{target}",)
    if row and name in known:
        raise InputError(f"the stage {name} has no row {row}; it has {', '.join(entries) or 'none'}")
    raise InputError(
        f"{target} is no stage and no row of experiments; stages are {', '.join(known)}, rows {', '.join(rows)}"
    )


def _rows(entry: dict[str, Any], params: dict[str, Any]) -> list[str]:
    table = str(entry.get("foreach", "")).strip("${} ")
    return list(params.get(table) or {})


def workers_of(targets: tuple[str, ...], params: dict[str, Any]) -> dict[str, int]:
    """The recipes that may train on the way to these stages, and how many workers each asks for at least."""
    rows = {target.partition("@")[2] for target in targets} if all("@" in target for target in targets) else set()
    tables = [*(params.get("experiments") or {}).items(), *(params.get("autoencoders") or {}).items()]
    chosen = [entry for name, entry in tables if not rows or name in rows]
    own = [(params.get("autoencoders") or {}).get(entry.get("autoencoder"), {}) for entry in chosen]
    names = [entry.get("recipe") for entry in (*chosen, *own)]
    asked = {name: recipe["workers"] for name, recipe in (params.get("recipes") or {}).items() if name in names}
    return {name: int(workers[0] if isinstance(workers, list) else workers) for name, workers in asked.items()}


def _submit(jobs: Any, submission: Submission, root: Path, arguments: argparse.Namespace) -> int:
    name = "-".join([arguments.target or "everything", time.strftime("%m%d-%H%M%S"), secrets.token_hex(2)])
    name = name.replace("@", "-")
    say(f"{jobs.address}: {'everything' if not submission.targets else ', '.join(submission.targets)}")
    with _runtime(submission, root, name) as runtime:
        _look(jobs, submission, root, name, runtime)
        if arguments.check:
            return 0
        if submission.root is None:
            command = submission.command("pipeline.job", "run", *submission.targets, "--remote", str(submission.remote))
        else:
            command = submission.command("dvc", "repro", *submission.targets)
        words = {"command": f"dvc repro {' '.join(submission.targets)}".strip(), "user": getpass.getuser()}
        notes = words | {"home": "" if submission.root else "log", "target": arguments.target or ""}
        jobs.submit(command, job=name, runtime=runtime, notes=notes, cpus=submission.cpus, gpus=submission.gpus)
    say(f"  job {name}; Ctrl-C leaves it or stops it")
    if arguments.detach:
        _say_detached(name)
        return 0
    return _follow(jobs, name, root)


@contextmanager
def _runtime(submission: Submission, root: Path, name: str) -> Iterator[dict[str, Any]]:
    """The job's runtime environment, for as long as its upload lies here."""
    runtime: dict[str, Any] = {"env_vars": submission.variables()}
    if submission.root is not None:
        say(f"  nothing is uploaded: the project is at {submission.root}")
        yield runtime
        return
    code = preflight.upload(root, name)
    say(f"  upload: {code}")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.zip"
        package.write_bytes(code.content)
        yield runtime | {"working_dir": str(package)}


def _look(jobs: Any, submission: Submission, root: Path, name: str, runtime: dict[str, Any]) -> None:
    """A small job that looks around first. Raises InputError with what would keep the job from running."""
    remote = ["--remote", submission.remote] if submission.remote else []
    probe = f"{name}-look"
    command = submission.command("pipeline.job", "look", *remote)
    held = {"cpus": submission.cpus, "gpus": submission.gpus}
    jobs.submit(command, job=probe, runtime=runtime, notes={"command": "a look at the nodes"}, **held)
    found = jobs.wait(probe, LOOK_SECONDS)
    if not found.over:
        jobs.stop(probe)
        asked = f"{submission.cpus:g} CPUs and {submission.gpus:g} GPUs on one node"
        raise InputError(
            f"no node took the job within {LOOK_SECONDS:.0f} s; it asks for {asked}: are they there, and free?"
        )
    log = jobs.log(probe)
    answer = preflight.answer_in(log)
    if answer is None:
        said = [line.strip() for text in (found.message, log) for line in text.splitlines() if line.strip()]
        complain("".join(f"  {line}\n" for line in log.splitlines()[-10:]).rstrip())
        last = said[-1] if said else "it said nothing"
        place = f"{submission.root} is not there, or " if submission.root else ""
        raise InputError(
            f"the project does not run on the cluster ({last.strip()}): {place}{submission.python} is wrong"
        )
    if "error" in answer:
        raise InputError(answer["error"])
    code = preflight.fingerprint(root)
    for doubt in preflight.judge(answer, code=code, store=submission.store, workers=submission.workers):
        complain(f"  warning: {doubt}")
    cpus, gpus = answer["resources"].get("CPU", 0), answer["resources"].get("GPU", 0)
    say(f"  the cluster has {cpus:g} CPUs and {gpus:g} GPUs; code, versions and tracking store fit")


def _follow(jobs: Any, name: str, root: Path) -> int:
    """Shows the log until the job ends; its status. Ctrl-C stops the job or leaves it, as the person wants."""
    shown = Shown()
    try:
        found = jobs.follow(name, shown)
    except KeyboardInterrupt:
        return _interrupted(jobs, name)
    shown.close()
    say(f"{name}: {found.status.lower()} after {(found.ended or 0) - (found.began or 0):.0f} s")
    if found.notes.get("home") == "log":
        _bring_home(jobs.log(name), root, found.status)
    return 0 if found.status == "SUCCEEDED" else found.code or FAILED


def _bring_home(log: str, root: Path, status: str) -> None:
    try:
        brought = homecoming.unpack(log, root)
    except InputError as error:
        if status == "SUCCEEDED":
            raise
        complain(f"  {error}")
        return
    outputs = f"`dvc pull {' '.join(brought)}` brings the outputs" if brought else "everything was up to date"
    say(f"  dvc.lock and metrics are home; {outputs}")


def _interrupted(jobs: Any, name: str) -> int:
    if sys.stdin.isatty():
        try:
            if input("\nstop the job (s), or leave it running (Enter)? ").strip().lower() in ("s", "stop"):
                jobs.stop(name)
                say(f"  {name} is told to stop")
                return DETACHED
        except (KeyboardInterrupt, EOFError):
            say("")
    _say_detached(name)
    return DETACHED


def _say_detached(name: str) -> None:
    say(f"  {name} goes on; `python -m pipeline.submit --follow {name}` shows it again, --stop {name} ends it")


class Shown:
    """The log on the screen, line by line, without the lines that are for the program."""

    def __init__(self) -> None:
        self._rest = ""

    def __call__(self, text: str) -> None:
        """More of the log, cut anywhere."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in homecoming.hidden(lines):
            say(line)

    def close(self) -> None:
        """Shows a last line that has no end."""
        if self._rest:
            self("\n")


if __name__ == "__main__":
    main()
