"""The door to Ray Jobs: a command given to a cluster, followed, listed and stopped, and a look at each of its nodes.

Apart from `pipeline/cluster.py`, so that a machine that only submits loads neither torch nor Ray Train.
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

from components.errors import InputError
from pipeline import environment

environment.apply(Path.cwd())  # Ray reads its settings when it is imported, and not again

import ray  # noqa: E402
from ray.job_submission import JobDetails, JobSubmissionClient  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

DASHBOARD = "http://127.0.0.1:8265"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes these before any argument
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
LOST_SECONDS = 60.0  # that a cluster may be out of reach while a job is followed
NODE_SECONDS = 90.0  # for all nodes to answer; the first task of a node starts a process there


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the cluster knows it; times in seconds since 1970, `code` is what its command left with."""

    id: str
    status: str
    message: str
    began: float | None
    ended: float | None
    code: int | None
    notes: Mapping[str, str]

    @property
    def over(self) -> bool:
        """Whether it has ended, however."""
        return self.status in ENDED

    def line(self) -> str:
        """All of it for a person."""
        born = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.began)) if self.began else "not yet begun"
        took = f"{(self.ended or time.time()) - self.began:.0f} s" if self.began else ""
        return f"{self.id:<48} {self.status:<10} {born:<17} {took:>8}  {self.notes.get('command', '')}".rstrip()


def place(address: str | None) -> str:
    """The dashboard's address: the one given, or what Ray's variables name, or this machine's."""
    named = (os.environ.get(name) for name in ADDRESSES)
    found = address or next((one for one in named if one and one.startswith("http")), DASHBOARD)
    return found if "://" in found else f"http://{found}"


class Jobs:
    """The jobs of one cluster. Raises InputError if nobody answers, the token is wrong, or Ray is another."""

    def __init__(self, address: str | None, *, any_version: bool = False) -> None:
        self.address = place(address)
        for name in ADDRESSES:
            os.environ.pop(name, None)
        for noisy in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self._client = self._asked(lambda: JobSubmissionClient(self.address))
        there = self._client._server_ray_version
        if there != ray.__version__ and not any_version:
            raise InputError(
                f"the cluster at {self.address} runs ray {there}, but ray {ray.__version__} is installed here; "
                "install the cluster's version here, or this one there"
            )
        self._asked(self._client.list_jobs)  # the first request that needs the token

    def submit(
        self, command: str, *, job: str, runtime: Mapping[str, Any], notes: Mapping[str, str], cpus: float, gpus: float
    ) -> str:
        """Gives the cluster a command under this id; its own process holds so many CPUs and GPUs of one node."""
        held = {"entrypoint_num_cpus": cpus or None, "entrypoint_num_gpus": gpus or None}
        wanted = {"entrypoint": command, "submission_id": job, "runtime_env": dict(runtime), "metadata": dict(notes)}
        return self._asked(lambda: self._client.submit_job(**wanted, **held))

    def job(self, job: str) -> Job:
        """What is known of a job."""
        return _job(self._asked(lambda: self._client.get_job_info(job), job))

    def all(self) -> list[Job]:
        """Every job that was submitted, the oldest first; what other programs did without submitting is left out."""
        found = [_job(one) for one in self._asked(self._client.list_jobs) if one.submission_id]
        return sorted(found, key=lambda job: job.began or float("inf"))

    def stop(self, job: str) -> bool:
        """Asks for a job's end. False if it had ended before."""
        return self._asked(lambda: self._client.stop_job(job), job)

    def log(self, job: str) -> str:
        """All that a job has printed."""
        return self._asked(lambda: self._client.get_job_logs(job), job)

    def follow(self, job: str, show: Callable[[str], None]) -> Job:
        """Shows what a job prints until it ends; a connection that breaks is opened again."""
        shown, seen = 0, time.monotonic()

        async def tail() -> None:
            nonlocal shown, seen
            skip = shown  # a new connection begins with the first line again
            async for text in self._client.tail_job_logs(job):
                fresh, skip = text[skip:], max(0, skip - len(text))
                if fresh:
                    show(fresh)
                    shown, seen = shown + len(fresh), time.monotonic()

        while True:
            with suppress(Exception):  # whatever broke the connection, the question below says whether it matters
                asyncio.run(tail())
            try:
                found = self.job(job)
                seen = time.monotonic()
                if found.over:
                    show(self.log(job)[shown:])
                    return found
            except InputError:
                if time.monotonic() - seen > LOST_SECONDS:
                    raise
            time.sleep(1)

    def wait(self, job: str, seconds: float) -> Job:
        """The job once it has ended, or as it is after so many seconds."""
        last = time.monotonic() + seconds
        while not (found := self.job(job)).over and time.monotonic() < last:
            time.sleep(0.5)
        return found

    def _asked(self, question: Callable[[], Any], job: str = "") -> Any:
        """The answer; what Ray says otherwise becomes one sentence."""
        try:
            return question()
        except ray.exceptions.AuthenticationError:
            raise InputError(
                f"the cluster at {self.address} does not take your token; set RAY_AUTH_TOKEN to the cluster's, "
                "or copy the head's ~/.ray/auth_token to this machine"
            ) from None
        except OSError as error:  # what requests raises is one, too
            raise InputError(
                f"no Ray cluster answers at {self.address} ({type(error).__name__}); start one, or correct --address"
            ) from None
        except (RuntimeError, ValueError) as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if job and "404" in said:
                raise InputError(f"{self.address} knows no job {job}; --list shows those that it knows") from None
            raise InputError(f"{self.address} does not answer as a Ray cluster ({said}); correct --address") from None


def _job(found: JobDetails) -> Job:
    seconds = [None if moment is None else moment / 1000 for moment in (found.start_time, found.end_time)]
    name = found.submission_id or found.job_id or ""
    status = str(getattr(found.status, "value", found.status))
    return Job(name, status, found.message or "", seconds[0], seconds[1], found.driver_exit_code, found.metadata or {})


def on_every_node(function: Callable[[], dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Resources of the cluster that this job runs on, and what function() says on each of its living nodes.

    A node that does not answer in time says {"error": ...}. Raises InputError if the cluster cannot be joined.
    """
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # a ConnectionError, or a RuntimeError that names both versions
        raise InputError(f"this node cannot join the cluster ({' '.join(str(error).split())[:300]})") from None
    try:
        asked = ray.remote(num_cpus=0, max_retries=0)(lambda: function())
        nodes = [node for node in ray.nodes() if node["Alive"]]
        pending = {
            asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
            for node in nodes
        }
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=NODE_SECONDS)
        return ray.cluster_resources(), [_answer(one, pending[one], one in ready) for one in pending]
    finally:
        ray.shutdown()


def _answer(reference: Any, node: Mapping[str, Any], ready: bool) -> dict[str, Any]:
    facts = {"node": node["NodeManagerHostname"], "cpus": node["Resources"].get("CPU", 0.0)}
    facts["gpus"] = node["Resources"].get("GPU", 0.0)
    if not ready:
        return {**facts, "error": f"did not answer within {NODE_SECONDS:.0f} s"}
    try:
        return {**facts, **ray.get(reference)}
    except Exception as error:
        return {**facts, "error": str(error).strip().splitlines()[-1]}
