"""Client of Ray Jobs: submit, follow, list and stop jobs, and run a function on every node of a cluster.

Separate from `pipeline/runtime/cluster.py`, so that a machine that only submits loads neither torch nor Ray Train.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.foundation.errors import InputError
from pipeline.runtime import environment

environment.apply(Path.cwd())  # Ray reads its settings only when it is imported

import ray  # noqa: E402
from ray.job_submission import JobDetails, JobSubmissionClient  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

DASHBOARD = "http://127.0.0.1:8265"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # they take precedence over the client's argument
NO_AGENT = "No available agent"  # what Ray says while no node takes jobs
FINISHED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
LOST_SECONDS = 60.0  # for which a followed cluster may be unreachable
AGENT_SECONDS = 30.0  # for which a cluster that has just started may have no node that takes jobs
NODE_SECONDS = 90.0  # timeout for all nodes; the first task on a node starts a worker process


@dataclass(frozen=True, slots=True)
class Job:
    """Status of a submitted job; times are in seconds since 1970."""

    id: str
    status: str
    message: str
    started: float | None
    ended: float | None
    exit_code: int | None
    metadata: Mapping[str, str]

    @property
    def finished(self) -> bool:
        """Whether the job has succeeded, failed or been stopped."""
        return self.status in FINISHED

    def line(self) -> str:
        """Return the line of `canvasmar submit --list`."""
        start = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started)) if self.started else "not started"
        duration = f"{(self.ended or time.time()) - self.started:.0f} s" if self.started else ""
        command = self.metadata.get("command", "")
        return f"{self.id:<48} {self.status:<10} {start:<17} {duration:>8}  {command}".rstrip()


def dashboard_url(address: str | None) -> str:
    """Return the dashboard's URL: from `address`, else from Ray's environment variables, else this machine's."""
    variables = (os.environ.get(name) for name in ADDRESSES)
    url = address or next((value for value in variables if value and value.startswith("http")), DASHBOARD)
    return url if "://" in url else f"http://{url}"


class Jobs:
    """Client for the jobs of one cluster.

    Raise InputError if the cluster does not answer, rejects the token, or runs another version of Ray.
    """

    def __init__(self, address: str | None, *, any_version: bool = False) -> None:
        self.address = dashboard_url(address)
        for name in ADDRESSES:
            os.environ.pop(name, None)
        for logger in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        self._client = self._request(lambda: JobSubmissionClient(self.address))
        version = self._client._server_ray_version
        if version != ray.__version__ and not any_version:
            raise InputError(
                f"the cluster at {self.address} runs ray {version}, but ray {ray.__version__} is installed here; "
                "install the same version on both"
            )
        self._request(self._client.list_jobs)  # the first request that checks the token

    def submit(
        self, command: str, *, job: str, runtime: Mapping[str, Any], metadata: Mapping[str, str],
        cpus: float, gpus: float,
    ) -> str:  # fmt: skip
        """Submit a shell command as the job with the id `job`; return the id.

        `runtime` is Ray's runtime environment; `cpus` and `gpus` are reserved on one node for the command's process.
        """
        reserved = {"entrypoint_num_cpus": cpus or None, "entrypoint_num_gpus": gpus or None}
        options = {"submission_id": job, "runtime_env": dict(runtime), "metadata": dict(metadata)}

        def begin() -> str:
            deadline = time.monotonic() + AGENT_SECONDS
            while True:
                try:
                    return self._client.submit_job(entrypoint=command, **options, **reserved)
                except RuntimeError as error:
                    if NO_AGENT not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(1.0)

        return self._request(begin)

    def job(self, job: str) -> Job:
        """Return the status of a job."""
        return _job(self._request(lambda: self._client.get_job_info(job), job))

    def all(self) -> list[Job]:
        """Return all submitted jobs, oldest first, without the drivers that joined the cluster directly."""
        jobs = [_job(details) for details in self._request(self._client.list_jobs) if details.submission_id]
        return sorted(jobs, key=lambda job: job.started or float("inf"))

    def stop(self, job: str) -> bool:
        """Request that a job stops; return False if the job had already finished."""
        return self._request(lambda: self._client.stop_job(job), job)

    def log(self, job: str) -> str:
        """Return the whole log of a job."""
        return self._request(lambda: self._client.get_job_logs(job), job)

    def follow(self, job: str, show: Callable[[str], None]) -> Job:
        """Call `show` with each new part of a job's log until the job has finished; reconnect if the connection breaks.

        Return the final status. Raise InputError if the cluster is unreachable for LOST_SECONDS.
        """
        shown, last_contact = 0, time.monotonic()  # characters shown

        async def tail() -> None:
            nonlocal shown, last_contact
            skip = shown  # a new connection sends the log from its start
            async for text in self._client.tail_job_logs(job):
                unseen, skip = text[skip:], max(0, skip - len(text))
                if unseen:
                    show(unseen)
                    shown, last_contact = shown + len(unseen), time.monotonic()

        while True:
            with suppress(Exception):  # the request below decides whether a broken connection matters
                asyncio.run(tail())
            try:
                status = self.job(job)
                last_contact = time.monotonic()
                if status.finished:
                    show(self.log(job)[shown:])
                    return status
            except InputError:
                if time.monotonic() - last_contact > LOST_SECONDS:
                    raise
            time.sleep(1)

    def wait(self, job: str, seconds: float) -> Job:
        """Wait until a job has finished, for at most `seconds`; return its status."""
        deadline = time.monotonic() + seconds
        while not (status := self.job(job)).finished and time.monotonic() < deadline:
            time.sleep(0.5)
        return status

    def _request(self, call: Callable[[], Any], job: str = "") -> Any:
        """Return call(); raise InputError instead of Ray's errors."""
        try:
            return call()
        except ray.exceptions.AuthenticationError:
            raise InputError(
                f"the cluster at {self.address} rejects your token; set RAY_AUTH_TOKEN to the cluster's token, "
                "or copy ~/.ray/auth_token from the head node to this machine"
            ) from None
        except OSError as error:  # includes the exceptions of requests
            raise InputError(
                f"no Ray cluster answers at {self.address} ({type(error).__name__}); start one, or correct --address"
            ) from None
        except (RuntimeError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if NO_AGENT in reason:
                raise InputError(
                    f"the cluster at {self.address} answers, but none of its nodes takes jobs; another Ray on the same "
                    "machine probably holds port 52365: stop it, or start this cluster with "
                    "`ray start --dashboard-agent-listen-port 52366`"
                ) from None
            if job and "404" in reason:
                raise InputError(f"the cluster at {self.address} has no job {job}; --list lists its jobs") from None
            raise InputError(f"{self.address} does not answer as a Ray cluster ({reason}); correct --address") from None


def _job(details: JobDetails) -> Job:
    started, ended = (None if time_ms is None else time_ms / 1000 for time_ms in (details.start_time, details.end_time))
    name = details.submission_id or details.job_id or ""
    status = str(getattr(details.status, "value", details.status))
    return Job(name, status, details.message or "", started, ended, details.driver_exit_code, details.metadata or {})


def run_on_every_node(function: Callable[[], dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the resources of this job's cluster, and function() of each live node with the node's name and resources.

    A node that fails or times out has the key "error" instead. Raise InputError if the cluster cannot be joined.
    """
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # a ConnectionError, or a RuntimeError about versions
        raise InputError(f"this node cannot join the cluster ({' '.join(str(error).split())[:300]})") from None
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(lambda: function())
        nodes = [node for node in ray.nodes() if node["Alive"]]
        pending = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
            for node in nodes
        }
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=NODE_SECONDS)
        return ray.cluster_resources(), [_node_result(key, node, key in ready) for key, node in pending.items()]
    finally:
        ray.shutdown()


def _node_result(reference: Any, node: Mapping[str, Any], ready: bool) -> dict[str, Any]:
    resources = node["Resources"]
    result = {"node": node["NodeManagerHostname"], "cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0)}
    if not ready:
        return {**result, "error": f"did not answer within {NODE_SECONDS:.0f} s"}
    try:
        return {**result, **ray.get(reference)}
    except Exception as error:
        return {**result, "error": str(error).strip().splitlines()[-1]}
