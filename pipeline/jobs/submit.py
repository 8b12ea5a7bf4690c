"""Command `submit`: run `dvc repro`, a stage or a row as a Ray Job on a cluster."""

import os
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

from components.foundation.config import read_yaml
from components.foundation.errors import InputError
from components.telemetry import tracking
from components.telemetry.progress import complain, say
from components.telemetry.store import user
from pipeline.jobs import lock_transfer, preflight
from pipeline.runtime import environment, stage

CHECK_SECONDS = 180.0
STOP_SECONDS = "120"  # time for a stopped training to write a checkpoint; Ray's default is 3
LAST_STAGE = "evaluate"  # of a row of experiments; `dvc repro` also runs the stages before it
FAILED, DETACHED = 1, 130  # exit statuses


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of the command `canvasmar submit`."""

    target: str | None  # stage or row; None for all stages
    address: str | None
    root: Path | None  # path of the project on the cluster
    code_only: bool
    remote: str | None
    python: str | None
    cpus: float
    gpus: float
    check: bool
    detach: bool
    list_jobs: bool
    status: str | None  # job id, as for `stop` and `follow`
    stop: str | None
    follow: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """The stages to run, and how the cluster gets the project."""

    targets: tuple[str, ...]
    workers: dict[str, int]  # minimum number of workers of each recipe that trains
    root: Path | None  # path of the project on the cluster; None if the code is uploaded
    remote: str | None  # DVC remote for the data if the code is uploaded
    python: str
    store: str  # MLflow tracking URI
    cpus: float
    gpus: float

    def command(self, *arguments: str) -> str:
        """Return the shell command of the job that runs `python -m` with these arguments."""
        line = shlex.join([self.python, "-m", *arguments])
        if self.root is None:
            return line
        root, programs = shlex.quote(str(self.root)), shlex.quote(str(Path(self.python).parent))
        return f"cd {root} && PATH={programs}:$PATH exec {line}"

    def variables(self) -> dict[str, str]:
        """Return the job's environment variables. They contain no password, because Ray's dashboard shows them."""
        project = environment.variables(self.root or Path("."))
        if self.root is None:
            del project["PYTHONPATH"]
        job = {"MLFLOW_TRACKING_URI": self.store, "RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS}
        chosen = ("MLFLOW_EXPERIMENT_NAME", environment.STORAGE)
        job |= {name: value for name in chosen if (value := os.environ.get(name))}
        # without the override, Ray rejects the runtime environment that each stage sets when it joins the cluster
        return {**project, **job, "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1", "PYTHONUNBUFFERED": "1"}


def run(options: Options, root: Path) -> int:
    """Submit the job and follow it, or list, show, stop or follow jobs; return the exit status of the command.

    Raise InputError if the cluster cannot be reached or cannot run the job.
    """
    actions = {
        "--list": options.list_jobs, "--status": options.status, "--stop": options.stop, "--follow": options.follow
    }  # fmt: skip
    chosen = [name for name, value in actions.items() if value]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} exclude each other; use only one of them")
    from pipeline.jobs.ray_jobs import Jobs  # after the environment is set, which Ray reads when it is imported

    jobs = Jobs(options.address, any_version=bool(chosen))
    if options.list_jobs:
        say("\n".join(job.line() for job in jobs.all()) or f"no job was submitted to {jobs.address} yet")
    elif options.status:
        job = jobs.job(options.status)
        say(f"{job.line()}\n{job.message}")
    elif options.stop:
        stopping = jobs.stop(options.stop)
        say(f"{options.stop} is stopping" if stopping else f"nothing to stop: {jobs.job(options.stop).line()}")
    elif options.follow:
        return _follow(jobs, options.follow, root)
    else:
        return _submit(jobs, _submission(options, root), root, options)
    return 0


def _submission(options: Options, root: Path) -> Submission:
    params = stage.read_tables(root / "params.yaml")
    targets = stages_of(options.target, read_yaml(root / "dvc.yaml"), params)
    store = tracking.uri(root)
    if not options.code_only:
        remote_root = options.root or root
        if options.root and store.startswith("sqlite:"):
            store = tracking.uri(remote_root)
        return Submission(
            targets, workers_of(targets, params), remote_root, None, options.python or sys.executable, store,
            options.cpus, options.gpus,
        )  # fmt: skip
    remote = preflight.remote(root, options.remote)
    if store.startswith("sqlite:"):
        raise InputError(
            "the local MLflow database of a job without shared storage is deleted with the job's folder; "
            "set MLFLOW_TRACKING_URI to the URL of an MLflow server"
        )
    return Submission(
        targets, workers_of(targets, params), None, remote, options.python or "python", store,
        options.cpus or 1.0, options.gpus,
    )  # fmt: skip


def stages_of(target: str | None, pipeline: dict[str, Any], params: dict[str, Any]) -> tuple[str, ...]:
    """Return the targets of `dvc repro` for a stage or a row; empty for all stages.

    Raise InputError if `target` is neither a stage nor a row of experiments.
    """
    if target is None:
        return ()
    rows, stages = params.get("experiments") or {}, pipeline.get("stages") or {}
    name, _, row = target.partition("@")
    entries = _rows(stages.get(name, {}), params)
    if name in stages and (not row or row in entries):
        return (target,)
    if target in rows:
        return (f"{LAST_STAGE}@{target}",)
    if row and name in stages:
        raise InputError(f"the stage {name} has no row {row}; it has {', '.join(entries) or 'none'}")
    raise InputError(
        f"{target} is neither a stage nor a row of experiments; the stages are {', '.join(stages)}; "
        f"the rows are {', '.join(rows)}"
    )


def _rows(stage: dict[str, Any], params: dict[str, Any]) -> list[str]:
    table = str(stage.get("foreach", "")).strip("${} ")
    return list(params.get(table) or {})


def workers_of(targets: tuple[str, ...], params: dict[str, Any]) -> dict[str, int]:
    """Return the recipes that may train for these targets, each with its minimum number of workers."""
    rows = {target.partition("@")[2] for target in targets} if all("@" in target for target in targets) else set()
    tables = [*(params.get("experiments") or {}).items(), *(params.get("autoencoders") or {}).items()]
    chosen = [entry for name, entry in tables if not rows or name in rows]
    autoencoders = [(params.get("autoencoders") or {}).get(entry.get("autoencoder"), {}) for entry in chosen]
    names = [entry.get("recipe") for entry in (*chosen, *autoencoders)]
    ranges = {name: recipe["workers"] for name, recipe in (params.get("recipes") or {}).items() if name in names}
    return {name: int(workers[0] if isinstance(workers, list) else workers) for name, workers in ranges.items()}


def _submit(jobs: Any, submission: Submission, root: Path, options: Options) -> int:
    name = "-".join([options.target or "everything", time.strftime("%m%d-%H%M%S"), secrets.token_hex(2)])
    name = name.replace("@", "-")
    say(f"{jobs.address}: {'everything' if not submission.targets else ', '.join(submission.targets)}")
    with _runtime(submission, root, name) as runtime:
        _check_cluster(jobs, submission, root, name, runtime)
        if options.check:
            return 0
        if submission.root is None:
            command = submission.command(
                "pipeline.jobs.entrypoint", "run", *submission.targets, "--remote", str(submission.remote)
            )
        else:
            command = submission.command("pipeline.jobs.entrypoint", "repro", *submission.targets)
        repro = f"dvc repro {' '.join(submission.targets)}".strip()
        # home: "log" if dvc.lock and metrics are returned through the log
        metadata = {"command": repro, "user": user(), "home": "" if submission.root else "log"}
        metadata["target"] = options.target or ""
        jobs.submit(command, job=name, runtime=runtime, metadata=metadata, cpus=submission.cpus, gpus=submission.gpus)
    say(f"  job {name}; press Ctrl-C to stop it or to detach")
    if options.detach:
        _print_detached(name)
        return 0
    return _follow(jobs, name, root)


@contextmanager
def _runtime(submission: Submission, root: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the job's runtime environment; the file to upload exists inside the block."""
    runtime: dict[str, Any] = {"env_vars": submission.variables()}
    if submission.root is not None:
        say(f"  nothing is uploaded; the job uses the project at {submission.root}")
        yield runtime
        return
    upload = preflight.upload(root, name)
    say(f"  upload: {upload}")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.zip"
        package.write_bytes(upload.content)
        yield runtime | {"working_dir": str(package)}


def _check_cluster(jobs: Any, submission: Submission, root: Path, name: str, runtime: dict[str, Any]) -> None:
    """Check the cluster by a small job. Raise InputError if the cluster cannot run the submission."""
    remote = ["--remote", submission.remote] if submission.remote else []
    probe = f"{name}-look"
    command = submission.command("pipeline.jobs.entrypoint", "look", *remote)
    reserved = {"cpus": submission.cpus, "gpus": submission.gpus}
    jobs.submit(command, job=probe, runtime=runtime, metadata={"command": "check of the cluster"}, **reserved)
    job = jobs.wait(probe, CHECK_SECONDS)
    if not job.finished:
        jobs.stop(probe)
        needed = f"{submission.cpus:g} CPUs and {submission.gpus:g} GPUs on one node"
        raise InputError(
            f"the check of the cluster did not finish within {CHECK_SECONDS:.0f} s; it needs {needed}: "
            "wait until these are free, or lower --cpus or --gpus"
        )
    log = jobs.log(probe)
    report = preflight.parse_report(log)
    if report is None:
        lines = [line.strip() for text in (job.message, log) for line in text.splitlines() if line.strip()]
        complain("".join(f"  {line}\n" for line in log.splitlines()[-10:]).rstrip())
        reason = lines[-1] if lines else "no output"
        root_option = f"--root {submission.root} and " if submission.root else ""
        raise InputError(
            f"the project does not run on the cluster ({reason}); correct {root_option}--python {submission.python}"
        )
    if "error" in report:
        raise InputError(report["error"])
    code = preflight.fingerprint(root)
    for warning in preflight.check_cluster(report, code=code, store=submission.store, workers=submission.workers):
        complain(f"  warning: {warning}")
    cpus, gpus = report["resources"].get("CPU", 0), report["resources"].get("GPU", 0)
    say(f"  the cluster has {cpus:g} CPUs and {gpus:g} GPUs; its code, versions and tracking store are correct")


def _follow(jobs: Any, name: str, root: Path) -> int:
    """Print the log until the job has finished; return its exit status. Ctrl-C asks whether to stop the job."""
    printer = LogPrinter()
    try:
        job = jobs.follow(name, printer)
    except KeyboardInterrupt:
        return _interrupted(jobs, name)
    printer.close()
    say(f"{name}: {job.status.lower()} after {(job.ended or 0) - (job.started or 0):.0f} s")
    if job.metadata.get("home") == "log":
        _write_results(jobs.log(name), root, job.status)
    return 0 if job.status == "SUCCEEDED" else job.exit_code or FAILED


def _write_results(log: str, root: Path, status: str) -> None:
    try:
        stages = lock_transfer.unpack(log, root)
    except InputError as error:
        if status == "SUCCEEDED":
            raise
        complain(f"  {error}")
        return
    outputs = f"`dvc pull {' '.join(stages)}` fetches the outputs" if stages else "all stages were up to date"
    say(f"  dvc.lock and metrics are updated; {outputs}")


def _interrupted(jobs: Any, name: str) -> int:
    if sys.stdin.isatty():
        try:
            if input("\nstop the job (s), or leave it running (Enter)? ").strip().lower() in ("s", "stop"):
                jobs.stop(name)
                say(f"  {name} is stopping")
                return DETACHED
        except (KeyboardInterrupt, EOFError):
            say("")
    _print_detached(name)
    return DETACHED


def _print_detached(name: str) -> None:
    say(f"  {name} keeps running; `canvasmar submit --follow {name}` shows its log, `--stop {name}` stops it")


class LogPrinter:
    """Prints a log line by line, without the lines of `lock_transfer`."""

    def __init__(self) -> None:
        self._incomplete = ""

    def __call__(self, text: str) -> None:
        """Print the complete lines of the next part of the log; store its incomplete last line."""
        *lines, self._incomplete = (self._incomplete + text).split("\n")
        for line in lock_transfer.visible(lines):
            say(line)

    def close(self) -> None:
        """Print the last line if it has no line break."""
        if self._incomplete:
            self("\n")
