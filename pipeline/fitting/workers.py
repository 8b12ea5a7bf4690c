"""One worker of a training run under Ray Train: the loop, its checkpoints, and its messages to the driver."""

import functools
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import nn

from components.foundation import checkpoint
from components.foundation.caching import code
from components.foundation.caching.cache import Cache, Entry
from components.foundation.errors import InputError
from components.training import loop
from components.training.checkpoints import CheckpointManager, PendingCheckpoint
from components.training.loop import Data, Progress, Training, Worker
from components.training.optimizer import RecipeConfig
from components.training.storage import Storage
from pipeline.fitting.reports import Reports
from pipeline.runtime import environment
from pipeline.runtime.cluster import measure  # before Ray, because it sets the environment that Ray reads

# isort: split
import ray
import ray.train
from ray.train.torch import TorchConfig, prepare_model

T = TypeVar("T")
INTERFACE = "GLOO_SOCKET_IFNAME"
LOOPBACK = "127.0.0.1"  # address of Ray's nodes on one machine
POST_EVERY = 1.0  # seconds; each message takes a millisecond of CPU time from the training


@dataclass(frozen=True, slots=True)
class FitJob:
    """Description of a training run."""

    label: str  # of its progress line
    make: functools.partial[tuple[Training, Data]]  # called with a worker
    recipe: RecipeConfig
    identity: Mapping[str, Any]  # everything that the result depends on; part of the cache key of the checkpoints
    notes: Mapping[str, Any]  # stored in checkpoints but not compared, such as the commit

    def storage(self) -> Storage:
        """Return the folder of the checkpoints: in CANVASMAR_STORAGE if it is set, else the cache entry."""
        path = self.entry().path
        return Storage.at(os.environ.get(environment.STORAGE) or str(path.parent), path.name)

    def entry(self) -> Entry:
        """Return the cache entry of the job; its key depends on the settings, inputs and code of the job."""
        make_file = inspect.getfile(inspect.unwrap(self.make.func))
        code_hash = code.fingerprint(__file__, Path(__file__).with_name("trainer.py"), make_file)
        return Cache.here().entry("training", {"label": self.label, **self.identity}, code_hash)


@dataclass(frozen=True)
class RayWorker(Worker):
    """Worker process of Ray Train; it sends messages to the driver through the board."""

    board: Any

    def post(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send a step and its metrics to the driver; a no-op on all ranks but 0."""
        if self.rank == 0:
            self.board.post.remote(step, dict(metrics))

    def stopping(self) -> bool:
        """Return whether the driver has requested to stop before the last step."""
        return ray.get(self.board.stopping.remote())

    def warn(self, text: str) -> None:
        """Print a line in the driver."""
        self.board.warn.remote(text)

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 on every worker. All workers must call this together."""
        values = [value]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]


class _NodeNetworkBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Process group whose workers use the network interface of Ray's nodes.

    By default gloo uses the address of the host name. With several nodes, it is often a loopback address (127.0.1.1 on
    Debian) that other nodes cannot reach. On one machine, it is often an address that other machines can reach.
    """

    _folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Set the network interface before the process group starts; on one machine, open no port for it."""
        addresses = set(worker_group.execute(ray.util.get_node_ip_address))
        if len(addresses) > 1 or addresses == {LOOPBACK}:
            worker_group.execute(_choose_interface)
        if addresses == {LOOPBACK}:
            self._folder = tempfile.mkdtemp(prefix="process-group-")
            worker_group = _OneMachine(worker_group, Path(self._folder, "store"))
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Delete the file of the process group after the workers have left it."""
        super().on_shutdown(worker_group, backend_config)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _OneMachine:
    """Workers of one machine, which find each other by a file; torch's TCP store would listen on all interfaces."""

    def __init__(self, workers: Any, file: Path) -> None:
        self._workers, self._file = workers, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workers, name)

    def __len__(self) -> int:
        return len(self._workers)

    def execute_single_async(self, rank: int, function: Any, **options: Any) -> Any:
        """Run the function on a worker; Ray's function that starts the process group gets the file."""
        if "init_method" in options:
            options["init_method"] = self._file.as_uri()
        return self._workers.execute_single_async(rank, function, **options)


class NodeNetworkConfig(TorchConfig):
    """Torch process group over the network interface that Ray uses on each node."""

    @property
    def backend_cls(self) -> type:
        """Return the backend class; Ray's hook."""
        return _NodeNetworkBackend


def _choose_interface() -> None:
    node_address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == node_address for address in addresses):
            os.environ.setdefault(INTERFACE, name)


def build_worker(board: Any) -> RayWorker:
    """Set up the device and the CPU threads of this process, and return its worker."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    return RayWorker(rank, world_size, device, prepare_model if world_size > 1 else nn.Identity(), board)


def train_worker(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Train `config["job"]` on this worker, from the newest checkpoint, and post progress to `config["board"]`.

    Checkpoints are written to `config["storage"]`, weights to `config["folder"]`. Return {"weights": path, "history":
    metrics of each logged step}, {"stopped": step} after a request to stop, or {"error": message} after an InputError.
    With several workers, raise the InputError instead, so that Ray ends the other workers.
    """
    job: FitJob = config["job"]
    folder: Path = config["folder"]
    board = config["board"]
    if (message := ray.get(board.error.remote())) is not None:
        return {"error": message}  # Ray restarts all workers after a failure, but bad input would fail again
    worker = build_worker(board)
    try:
        with measure().reporting(board.report_usage.remote):
            checkpoints = CheckpointManager(config["storage"], job.identity, job.notes)
            training, data = job.make(worker)
            history = resume(training, checkpoints, worker)
            reports, posted = Reports(worker.broadcast, board), 0.0
            for progress in loop.fit(training, data, worker.stopping):
                if progress.metrics or time.monotonic() > posted + POST_EVERY:
                    posted = time.monotonic()
                    worker.post(progress.step, progress.metrics)
                if progress.metrics:
                    history.append({"step": progress.step, **progress.metrics})
                reports.send(progress, due_checkpoint(progress, history, checkpoints, worker))
            if training.step < job.recipe.steps:
                return {"stopped": training.step}
            weights = training.weights()
            if worker.rank == 0:
                checkpoint.save_weights(folder / checkpoint.WEIGHTS, weights)
        return {"weights": str(folder / checkpoint.WEIGHTS), "history": history}
    except InputError as error:
        ray.get(board.report_error.remote(str(error)))
        if worker.world_size > 1:
            raise  # otherwise the other workers would wait for gradients of this one
        return {"error": str(error)}


def due_checkpoint(
    progress: Progress, history: list[dict[str, float]], checkpoints: CheckpointManager, worker: Worker
) -> PendingCheckpoint | None:
    """Return the checkpoint that is due at a step, or None; None on all ranks but 0. All workers call this together.

    Wait for the last checkpoint first, so that no worker but rank 0 holds a copy of the state, and rank 0 one.
    """
    if progress.state is None:
        return None
    if worker.rank == 0:
        checkpoints.wait()
    state = {"training": progress.state(), "history": list(history)}
    return checkpoints.prepare(progress.step, state, progress.metrics) if worker.rank == 0 else None


def resume(training: Training, checkpoints: CheckpointManager, worker: RayWorker) -> list[dict[str, float]]:
    """Restore the newest checkpoint that rank 0 finds, on every worker; return its history, or an empty one."""
    own_name, state = (checkpoints.newest(worker.warn) if worker.rank == 0 else None) or (None, None)
    name = worker.broadcast(own_name)
    if name is None:
        return []
    state = state or checkpoints.load(name)
    training.restore(state["training"])
    if worker.rank == 0:
        worker.warn(f"resuming from the checkpoint at step {training.step}, workers: {worker.world_size}")
    history: list[dict[str, float]] = state["history"]
    return history
