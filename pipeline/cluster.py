"""The only door to Ray: one task an item, training on workers, a search over settings."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from components.errors import InputError
from pipeline import environment
from pipeline.progress import Meter, complain, meter

environment.apply(Path.cwd())  # Ray reads its settings when it is imported, and not again

import ray  # noqa: E402
import ray.train  # noqa: E402
from ray import tune  # noqa: E402
from ray.train.torch import TorchTrainer, prepare_model  # noqa: E402

T = TypeVar("T")
R = TypeVar("R")
OBJECT_STORE = 400 * 2**20  # bytes; what we send is small, and what is not lies in files


@contextmanager
def connect(root: Path) -> Iterator[None]:
    """The cluster at RAY_ADDRESS, or one of our own on this machine for as long as the block lasts."""
    variables = environment.variables(root)
    if os.environ.get("RAY_ADDRESS"):
        # workers of a cluster inherit nothing from us
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": {**variables, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}}
        }
    else:
        settings = {"address": "local", "object_store_memory": OBJECT_STORE}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS ({reason}); correct it, or unset it") from None
    try:
        yield
    finally:
        ray.shutdown()


def processors() -> int:
    """CPUs of the cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def device() -> torch.device:
    """Where a single process of ours computes: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def map_tasks(function: Callable[[T], R], items: Sequence[T], *, label: str, unit: str) -> list[R]:
    """function(item) for every item, each in a task of its own with one CPU, results in the order of the items."""

    @ray.remote(num_cpus=1, max_retries=2)
    def task(item: T) -> R:
        torch.set_num_threads(1)
        return function(item)

    pending = {task.remote(item): index for index, item in enumerate(items)}
    results: dict[int, R] = {}
    with meter(label, len(items), unit) as shown:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            for reference in ready:
                index = pending.pop(reference)
                results[index] = _unwrap(reference)
                shown.advance()
    return [results[index] for index in range(len(items))]


def _unwrap(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise


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


@ray.remote(num_cpus=0)
class Board:
    """Where workers post what they do and the driver reads it, and the other way round."""

    def __init__(self) -> None:
        self.step = 0
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self.error: str | None = None
        self.stopped = False

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
    workers: int,
    steps: int,
    storage: Path,
    name: str,
    label: str,
    log: Callable[[Mapping[str, float], int], None],
) -> Mapping[str, Any]:
    """work(worker) on so many workers through Ray Train; what the first worker returns.

    `storage` and `name` give the folder of Ray's own notes. When interrupted, the workers are asked for an early end
    and waited for. Raises InputError if the cluster is too small, and with a worker's sentence if it raised one.
    """
    cpus, gpus = processors(), int(ray.cluster_resources().get("GPU", 0))
    use_gpu = gpus > 0
    if workers > (gpus or cpus):
        kind = f"{gpus} GPUs" if use_gpu else f"{cpus} CPUs and no GPU"
        raise InputError(f"recipe.workers is {workers}, but the cluster has {kind}; lower it to what is there")
    resources = {"CPU": float(max(1, cpus // workers)), **({"GPU": 1.0} if use_gpu else {})}
    failures = ray.train.FailureConfig(max_failures=2, controller_failure_limit=0)  # type: ignore[call-arg]
    board = Board.remote()  # type: ignore[attr-defined]
    trainer: Any = TorchTrainer(
        _worker_loop,  # type: ignore[arg-type]
        train_loop_config={"work": work, "board": board},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=failures,
        ),
    )
    with meter(label, steps, "steps") as shown, _watched(board, shown, log):
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
        if sentence is None:
            raise
        raise InputError(sentence) from error


@contextmanager
def _watched(board: Any, shown: Meter, log: Callable[[Mapping[str, float], int], None]) -> Iterator[None]:
    """Reads the board in a thread while the block runs, and once more at its end."""
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
        while not done.wait(1.0):
            with suppress(ray.exceptions.RayError):
                read()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            read()


def _worker_loop(config: dict[str, Any]) -> Mapping[str, Any]:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    board = config["board"]
    sentence = ray.get(board.failure.remote())
    if sentence is not None:  # Ray starts all workers again when one has left; bad input does not get better
        return {"error": sentence}
    worker = Worker(rank, world, device, prepare_model if world > 1 else nn.Identity(), board)
    try:
        work: Callable[[Worker], Mapping[str, Any]] = config["work"]
        return work(worker)
    except InputError as error:
        ray.get(board.fail.remote(str(error)))
        if world > 1:
            raise  # the others may wait for this one's gradients
        return {"error": str(error)}


def search(
    trial: Callable[[Mapping[str, Any], Any], dict[str, float]],
    settings: Sequence[Mapping[str, Any]],
    shared: Any,
    *,
    storage: Path,
    name: str,
    concurrent: int,
    label: str,
) -> list[dict[str, Any]]:
    """trial(setting, shared) for every setting through Ray Tune; rows of setting, metrics and status in their order.

    A trial that fails is a row with its error; the others go on. A search that was killed goes on where it was.
    """
    threads = max(1, processors() // concurrent)

    def trainable(config: dict[str, Any], shared: Any) -> None:
        torch.set_num_threads(threads)
        tune.report({"trial": config["trial"], **trial(settings[config["trial"]], shared)})

    placed = tune.with_resources(tune.with_parameters(trainable, shared=shared), {"cpu": threads})
    path = storage.resolve() / name
    if tune.Tuner.can_restore(str(path)):
        return _rows(tune.Tuner.restore(str(path), trainable=placed, restart_errored=True).fit(), settings)
    with meter(label, len(settings), "trials") as shown:
        tuner = tune.Tuner(
            placed,
            param_space={"trial": tune.grid_search(list(range(len(settings))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(name=name, storage_path=str(path.parent), verbose=0, callbacks=[Finished(shown)]),
        )
        return _rows(tuner.fit(), settings)


def _rows(results: tune.ResultGrid, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = {}
    for place in range(len(results)):
        result = results[place]
        index = (result.config or {})["trial"]
        metrics = {} if result.error else dict(result.metrics or {})
        status = "failed" if result.error else "finished"
        rows[index] = {"trial": index, **settings[index], **metrics, "status": status}
        if result.error:
            complain(f"  trial {index} failed: {str(result.error).strip().splitlines()[-1]}")
    return [rows[index] for index in sorted(rows)]


class Finished(tune.Callback):
    """Counts the trials that have ended."""

    def __init__(self, shown: Meter) -> None:
        self.shown = shown

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One more."""
        self.shown.advance()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """One more, though it failed."""
        self.shown.advance()
