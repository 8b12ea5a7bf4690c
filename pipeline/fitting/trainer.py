"""Train on the workers of a Ray cluster: start them, show their progress, and explain why they failed."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow.fs import FileType

from components.foundation.errors import InputError
from components.telemetry import usage
from components.telemetry.progress import Meter, complain, meter
from components.training.checkpoints import SCORE
from components.training.optimizer import RecipeConfig
from components.training.storage import Storage
from pipeline.fitting.board import Board
from pipeline.fitting.workers import FitJob, NodeNetworkConfig, train_worker
from pipeline.runtime import environment
from pipeline.runtime.cluster import (
    cpus_per_task,
    death_message,
)  # before Ray, because it sets the environment that Ray reads

# isort: split
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Log = Callable[[Mapping[str, float], int], None]  # called with metrics and a step
MAX_FAILURES = 8  # of workers or nodes; after each, the training restarts from the last checkpoint
MAX_FAILED_STARTS = 3  # of the worker group, each after the timeout START_SECONDS
# with an elastic number of workers, a start fails after 60 s and Ray counts the resources again, because a node that
# has just died may have been counted
ELASTIC_START_SECONDS, ELASTIC_MAX_FAILED_STARTS = "60", 60
START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # read by the controller of each training
LESS_MEMORY = "lower micro_batch in the recipe (the run resumes from its last checkpoint), close other programs"
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of checkpoints in the folder of a run
RESIZE_SECONDS = 30.0  # between checks for resources for more workers


@dataclass(frozen=True, slots=True)
class Fitted:
    """Result of a finished training run."""

    weights: Path  # safetensors file of the averaged weights
    history: list[dict[str, float]]  # metrics of each logged step
    result: ray.train.Result  # what Ray Train knows of the run: the checkpoints that it kept, and their metrics


def fit(job: FitJob, log: Log, callbacks: Sequence[ray.train.UserCallback] = ()) -> Fitted:
    """Train to the end, from the newest checkpoint if there is one. `clear` deletes the checkpoints and weights.

    Start as many workers as the recipe and the cluster's resources allow, and restart from the last checkpoint with
    another number of workers if nodes are lost or added. Ray calls the `callbacks` after each report. On Ctrl-C, let
    the workers write a checkpoint first. Wait while another process runs the same job. Raise InputError if the cluster
    is too small or if a worker raised an InputError.
    """
    entry = job.entry()
    if not any(entry.path.iterdir()):
        for folder in entry.of_other_code():
            complain(f"  the checkpoints in {folder} were written by other code and are not used")
    storage = job.storage()
    storage.check()
    _forget_unusable_snapshot(storage)
    scaling, max_failed_starts = _scaling(job.recipe)
    # on the driver's node, because other nodes may be lost
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = Board.options(scheduling_strategy=this_node).remote()  # type: ignore[attr-defined]
    failures = ray.train.FailureConfig(  # type: ignore[call-arg]
        max_failures=MAX_FAILURES, controller_failure_limit=max_failed_starts
    )
    trainer: Any = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={"job": job, "folder": entry.path, "storage": storage, "board": board},
        torch_config=NodeNetworkConfig(),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=PurePosixPath(storage.path).name,
            storage_path=str(PurePosixPath(storage.path).parent),
            storage_filesystem=storage.filesystem,
            failure_config=failures,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=job.recipe.keep, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
            ),
            callbacks=list[Any](callbacks),
        ),
    )
    with (
        meter(job.label, job.recipe.steps, "steps") as progress,
        _monitored(board, progress, log, job.recipe.num_workers[0]),
        _errors_explained(board, storage),
    ):
        # in a daemon thread, because in the main thread Ray handles Ctrl-C and stops without a checkpoint
        pool = ThreadPool(1)
        outcome = pool.apply_async(trainer.fit)
        pool.close()
        try:
            outcome.wait()
        except KeyboardInterrupt:
            complain("  stopping with a checkpoint at the next logged step; press Ctrl-C again to stop without one")
            ray.get(board.stop.remote())
            outcome.wait()
            raise
        result = outcome.get()
    returned = result.return_value
    if "error" in returned:
        raise InputError(returned["error"])
    return Fitted(Path(returned["weights"]), returned["history"], result)


def clear(job: FitJob) -> None:
    """Delete the checkpoints and weights of a job, so that the next run of the same job starts at step 0."""
    entry, storage = job.entry(), job.storage()
    if storage.folder != entry.path:  # which `remove` renames first, so that a kill leaves no part of it
        try:
            storage.remove()
        except InputError as error:  # the training is done, and its result must not be lost
            complain(f"  warning: checkpoints that are not needed any more were not deleted: {error}")
    entry.remove()


def _forget_unusable_snapshot(storage: Storage) -> None:
    """Delete Ray's list of checkpoints if it is incomplete or names a missing one: Ray would refuse to start.

    The run resumes from the newest intact checkpoint in any case; Ray only no longer deletes older ones.
    """
    snapshot = f"{storage.path}/{SNAPSHOT}"
    with storage.reached():
        if storage.filesystem.get_file_info(snapshot).type == FileType.NotFound:
            return
        try:
            ray.train.Result.from_path(storage.path, storage.filesystem)
        except Exception:  # Ray has no public class for it
            storage.filesystem.delete_file(snapshot)


def _scaling(recipe: RecipeConfig) -> tuple[Any, int]:
    """Return Ray's scaling config for a recipe, and the number of failed starts of workers after which the run ends."""
    (fewest, most), (capacity, use_gpu) = recipe.num_workers, _capacity()
    if fewest > capacity:
        kind = f"{capacity} GPUs" if use_gpu else f"{capacity} CPUs and no GPU"
        raise InputError(f"recipe.workers is {fewest}, but the cluster has {kind}; lower it or add nodes")
    max_failed_starts = MAX_FAILED_STARTS
    if fewest < most:
        max_failed_starts = ELASTIC_MAX_FAILED_STARTS
        if os.environ[START_SECONDS] == environment.VARIABLES[START_SECONDS]:  # otherwise the user has set it
            os.environ[START_SECONDS] = ELASTIC_START_SECONDS
    cpus = float(cpus_per_task(min(most, capacity), gpu=use_gpu))
    scaling: Any = ray.train.ScalingConfig  # its type hints are those of Ray Train V1
    return scaling(
        num_workers=fewest if fewest == most else (fewest, most),
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1.0} if use_gpu else {})},
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    ), max_failed_starts


@contextmanager
def _errors_explained(board: Any, storage: Storage) -> Iterator[None]:
    """Replace an error of Ray by the InputError of a worker, or by why processes died or workers did not start."""
    try:
        yield
    except (ray.train.WorkerGroupError, ray.train.ControllerError, ray.exceptions.RayError) as error:
        message: str | None = None
        failures: list[Exception] = [error]
        with suppress(ray.exceptions.RayError):  # the board may have died too
            message = ray.get(board.error.remote())
        if isinstance(error, ray.train.WorkerGroupError):
            failures = list(error.worker_failures.values())
        if isinstance(error, ray.train.ControllerError):
            failures = [error.controller_failure]
        for failure in failures:
            message = message or death_message(failure, LESS_MEMORY)
        if message is None and isinstance(error, ray.train.ControllerError):
            message = _controller_error(error.controller_failure, storage)
        if message is None:
            raise
        raise InputError(message) from error


def _capacity() -> tuple[int, bool]:
    """Return how many workers fit into the cluster if it runs nothing else, and whether they use GPUs."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return gpus or int(ray.cluster_resources().get("CPU", 0)), gpus > 0


def _check_capacity(fewest: int, too_small: bool) -> bool:
    """Return whether the cluster is too small now; print a message if the last result, `too_small`, differs."""
    capacity, _ = _capacity()
    if capacity < fewest and not too_small:
        complain(
            f"  nodes were lost: the cluster has resources for {capacity} of at least {fewest} workers; the run "
            "waits for more nodes; press Ctrl-C twice to stop; the same command resumes from the last checkpoint"
        )
    if capacity >= fewest and too_small:
        complain("  the cluster has resources for the workers again")
    return capacity < fewest


def _controller_error(failure: Exception, storage: Storage) -> str:
    """Return why Ray's controller could not write its list of checkpoints, or not start workers, and what to do."""
    if isinstance(failure, OSError):
        return storage.problem(failure)
    cause = getattr(failure, "cause", failure)  # the worker's error, without Ray's wrapper
    reason = " ".join(str(cause).split())[:300]
    if isinstance(cause, OSError | RuntimeError) and cause is not failure:
        remedy = "allow connections between the nodes at all ports"
    else:
        remedy = "wait until the cluster has resources for them, or set recipe.workers to [fewest, most]"
    return f"the workers could not be started ({reason}); {remedy}; the same command resumes from the last checkpoint"


@contextmanager
def _monitored(board: Any, progress: Meter, log: Log, fewest: int) -> Iterator[None]:
    """Log metrics, print warnings and progress from the board during the block, and report lost nodes.

    `fewest` is the minimum number of workers.
    """
    done = threading.Event()

    def read() -> None:
        last_step, metrics_of_steps, warnings = ray.get(board.drain.remote())
        for warning in warnings:
            complain(f"  {warning}")
        loss = ""
        for step, metrics in metrics_of_steps:
            log(metrics, step)
            if "loss" in metrics:
                loss = f"loss {metrics['loss']:.4f}"
        if last_step:
            progress.update(last_step, loss)

    def poll() -> None:
        too_small = False
        while not done.wait(1.0):
            with suppress(ray.exceptions.RayError):
                read()
                too_small = _check_capacity(fewest, too_small)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            read()
            usage.TOTAL.uses.update(ray.get(board.usages.remote()))
