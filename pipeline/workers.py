"""The door to Ray Train: work on several processes that average their gradients, watched from here."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn

from components.errors import InputError
from pipeline import cost, environment
from pipeline.cluster import measure, share  # before Ray, which it gives its settings
from pipeline.progress import Meter, complain, meter

# isort: split
import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")
LOSSES = 8  # of workers or of whole nodes, after each of which the others begin again at the last checkpoint
STARTS = 3  # in vain, where what was there a moment ago is gone; each has the time that the environment gives it
# where the number of workers may change, a start without room is given up after a minute, and what is there is counted
# anew, so often: a node that had just died may have been among it
ELASTIC_START_SECONDS, ELASTIC_STARTS = "60", 60
START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # Ray reads it in each training's controller
RESIZE_SECONDS = 30.0  # between looks for room for more workers
INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a training: its place among all, its device, and its ways to the driver."""

    rank: int
    world: int
    device: torch.device
    parallel: Callable[[nn.Module], nn.Module]  # wraps a model so that gradients are averaged over all workers
    board: Any

    def post(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step and metrics, from the first worker to the driver."""
        if self.rank == 0:
            self.board.post.remote(step, dict(metrics))

    def stopping(self) -> bool:
        """Whether the driver wants an early end."""
        return ray.get(self.board.stopping.remote())

    def warn(self, text: str) -> None:
        """A line for the person at the keyboard."""
        self.board.warn.remote(text)

    def agree(self, value: T) -> T:
        """The first worker's value, on every worker."""
        box = [value]
        if self.world > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


class _Joining(TorchConfig().backend_cls):  # type: ignore[misc]
    """Workers on several nodes talk through the network that Ray's nodes talk through.

    gloo would take the one of the machine's name, which often is the machine itself (127.0.1.1 on Debian), where no
    other node finds it.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Before the workers join."""
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


class _Joined(TorchConfig):
    @property
    def backend_cls(self) -> type:
        return _Joining


def _choose_interface() -> None:
    mine = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == mine for address in addresses):
            os.environ.setdefault(INTERFACE, name)


@ray.remote(num_cpus=0)
class Board:
    """Where workers post what they do and the driver reads it, and the other way round."""

    def __init__(self) -> None:
        self.step = 0
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self.error: str | None = None
        self.stopped = False
        self.uses: dict[str, cost.Use] = {}

    def post(self, step: int, metrics: dict[str, float]) -> None:
        """The step that is done, and metrics if there are any."""
        self.step = step
        if metrics:
            self.metrics.append((step, metrics))

    def warn(self, text: str) -> None:
        """A line for the person at the keyboard."""
        self.warnings.append(text)

    def drain(self) -> tuple[int, list[tuple[int, dict[str, float]]], list[str]]:
        """The newest step, and the metrics and warnings posted since the last call."""
        found = self.step, self.metrics, self.warnings
        self.metrics, self.warnings = [], []
        return found

    def charge(self, key: str, use: cost.Use) -> None:
        """What a worker has used so far."""
        self.uses[key] = use

    def charged(self) -> dict[str, cost.Use]:
        """What all of them have used."""
        return self.uses

    def fail(self, error: str) -> None:
        """A worker's sentence about bad input: whoever begins after it need not try."""
        self.error = self.error or error

    def failure(self) -> str | None:
        """The first such sentence."""
        return self.error

    def stop(self) -> None:
        """Asks the workers for an early end."""
        self.stopped = True

    def stopping(self) -> bool:
        """Whether an early end was asked for."""
        return self.stopped


def train(
    work: Callable[[Worker], Mapping[str, Any]],
    *,
    team: tuple[int, int],
    steps: int,
    storage: Path,
    name: str,
    label: str,
    log: Callable[[Mapping[str, float], int], None],
) -> Mapping[str, Any]:
    """work(worker) on `team` workers, the fewest and the most, through Ray Train; what the first worker returns.

    As many begin as there is room for. When workers are lost, or more find room, all begin again in the new number.
    `storage` and `name` give the folder of Ray's own notes. When interrupted, the workers are asked for an early end
    and waited for. Raises InputError if the cluster is too small, and with a worker's sentence if it raised one.
    """
    fewest, most = team
    room, use_gpu = _room()
    if fewest > room:
        kind = f"{room} GPUs" if use_gpu else f"{room} CPUs and no GPU"
        raise InputError(f"recipe.workers is {fewest}, but the cluster has {kind}; lower it to what is there")
    resources = {"CPU": float(share(min(most, room), gpu=use_gpu)), **({"GPU": 1.0} if use_gpu else {})}
    starts = STARTS
    if fewest < most:
        starts = ELASTIC_STARTS
        if os.environ[START_SECONDS] == environment.VARIABLES[START_SECONDS]:  # else it is the user's own choice
            os.environ[START_SECONDS] = ELASTIC_START_SECONDS
    failures = ray.train.FailureConfig(max_failures=LOSSES, controller_failure_limit=starts)  # type: ignore[call-arg]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may go away
    scaling: Any = ray.train.ScalingConfig  # its public type is the one of the version before
    board = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    trainer: Any = TorchTrainer(
        _worker_loop,  # type: ignore[arg-type]
        train_loop_config={"work": work, "board": board},
        torch_config=_Joined(),
        scaling_config=scaling(
            num_workers=team[0] if team[0] == team[1] else team,
            use_gpu=use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=failures,
        ),
    )
    with meter(label, steps, "steps") as shown, _watched(board, shown, log, fewest):
        outcome = _fitted(trainer, board)
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome


def _fitted(trainer: Any, board: Any) -> Mapping[str, Any]:
    """What the first worker returns; in a thread, because Ray would take Ctrl-C for itself in the main one."""
    done: Future[Mapping[str, Any]] = Future()

    def fit() -> None:
        try:
            done.set_result(trainer.fit().return_value)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    try:
        try:
            wait([done])
        except KeyboardInterrupt:
            complain("  stopping with a checkpoint at the next line of the log; interrupt once more to end without one")
            ray.get(board.stop.remote())
            wait([done])
            raise
        return done.result()
    except (ray.train.WorkerGroupError, ray.train.ControllerError) as error:
        sentence = ray.get(board.failure.remote())
        if sentence is None and isinstance(error, ray.train.ControllerError):
            sentence = _not_started(error.controller_failure)
        if sentence is None:
            raise
        raise InputError(sentence) from error


def _room() -> tuple[int, bool]:
    """Workers that the cluster could hold if it did nothing else, and whether on GPUs."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return gpus or int(ray.cluster_resources().get("CPU", 0)), gpus > 0


def _tell_room(fewest: int, lacking: bool) -> bool:
    """Whether the cluster is too small now; says so when that begins and when it ends."""
    room, _ = _room()
    if room < fewest and not lacking:
        complain(
            f"  nodes are gone: there is room for {room} of at least {fewest} workers, and the training waits for it; "
            "Ctrl-C twice ends it, and the same command goes on from the last checkpoint"
        )
    if room >= fewest and lacking:
        complain("  there is room for the workers again")
    return room < fewest


def _not_started(failure: Exception) -> str:
    """Why there are no workers, and what to do."""
    cause = getattr(failure, "cause", failure)  # what a worker met with, without Ray's way to it
    reason = " ".join(str(cause).split())[:300]
    if isinstance(cause, OSError | RuntimeError) and cause is not failure:
        remedy = "see that the nodes reach one another at any port"
    else:
        remedy = "wait until the cluster has room for them again, or let recipe.workers be [fewest, most]"
    return f"the workers could not be started ({reason}); {remedy}; the same command goes on from the last checkpoint"


@contextmanager
def _watched(board: Any, shown: Meter, log: Callable[[Mapping[str, float], int], None], fewest: int) -> Iterator[None]:
    """Reads the board in a thread while the block runs, and once more at its end; says when workers have no room."""
    done = threading.Event()

    def read() -> None:
        step, posted, warnings = ray.get(board.drain.remote())
        for warning in warnings:
            complain(f"  {warning}")
        for at, metrics in posted:
            log(metrics, at)
        loss = next((f"loss {metrics['loss']:.4f}" for _, metrics in reversed(posted) if "loss" in metrics), "")
        if step:
            shown.update(step, loss)

    def watch() -> None:
        lacking = False
        while not done.wait(1.0):
            with suppress(ray.exceptions.RayError):
                read()
                lacking = _tell_room(fewest, lacking)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            read()
            cost.LEDGER.uses.update(ray.get(board.charged.remote()))


def _worker_loop(config: dict[str, Any]) -> Mapping[str, Any]:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    board = config["board"]
    sentence = ray.get(board.failure.remote())
    if sentence is not None:  # Ray starts all workers again when one has left; bad input does not get better
        return {"error": sentence}
    worker = Worker(rank, world, device, prepare_model if world > 1 else nn.Identity(), board)
    try:
        work: Callable[[Worker], Mapping[str, Any]] = config["work"]
        with measure().told(board.charge.remote):
            return work(worker)
    except InputError as error:
        ray.get(board.fail.remote(str(error)))
        if world > 1:
            raise  # the others may wait for this one's gradients
        return {"error": str(error)}
