"""Reports of a worker to Ray Train: metrics and checkpoints, for Ray's callbacks, its `Result` and its dashboard."""

import sys
import time
from collections.abc import Callable
from typing import Any

from components.foundation.errors import InputError
from components.training.checkpoints import SCORE, PendingCheckpoint
from components.training.loop import Progress
from pipeline.runtime import cluster  # noqa: F401  before Ray, because it sets the environment that Ray reads

# isort: split
import ray
import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

# seconds between reports without a checkpoint, because Ray collects a report every 0.5 s and later ones wait in a queue
REPORT_EVERY = 1.0
UNSCORED = sys.float_info.max  # validation loss of a checkpoint without a validation; Ray's snapshot has no infinity


class Reports:
    """Sends the reports of one worker. Every worker of a training run has one."""

    def __init__(self, broadcast: Callable[[bool], bool], board: Any) -> None:
        """`broadcast` returns the value of rank 0 on every worker; the board gets errors of writing a checkpoint."""
        self._broadcast, self._board = broadcast, board
        self._last = -REPORT_EVERY

    def send(self, progress: Progress, pending: PendingCheckpoint | None) -> None:
        """Report the metrics of a step and the checkpoint that is due at it. All workers call this after every step.

        `pending` is None on all ranks but 0. Ray writes it in the background, in its place, so that the data are
        written once. Metrics without a checkpoint are reported at most once in REPORT_EVERY seconds.
        """
        due = progress.state is not None
        if not due and not (progress.metrics and self._broadcast(time.monotonic() > self._last + REPORT_EVERY)):
            return
        self._last = time.monotonic()
        metrics = {"step": progress.step, **({SCORE: UNSCORED} if due else {}), **progress.metrics}
        if pending is None:
            ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return

        def write(planned: Checkpoint, name: str) -> Checkpoint:
            try:
                pending.write()
            except InputError as error:
                ray.get(self._board.report_error.remote(str(error)))
                raise
            return planned

        ray.train.report(
            metrics,
            Checkpoint(f"{pending.storage.path}/{pending.name}", pending.storage.filesystem),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=write,
        )
