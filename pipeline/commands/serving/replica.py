"""Deployment that holds the model and predicts waiting requests in batches."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from components.pictures import galleries
from pipeline.commands import one_thread
from pipeline.commands.video_predictor import VideoPredictor

BATCH_SIZE: Final = 8  # requests
MAX_BATCHES: Final = 2  # batches that alternate on a replica, so that a new request need not wait for a whole batch
BATCH_WAIT_SECONDS: Final = 0.02  # an idle replica waits this long for more requests after the first one

Picture = tuple[str, int, bytes]  # "canvas" or "frame", index of the predicted frame, PNG


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request at a replica."""

    frames: Any  # context: uint8 numpy, f c h w
    query: dict[str, Any]
    results: "asyncio.Queue[list[Picture] | Exception | None]" = field(default_factory=asyncio.Queue)  # None is the end
    cancelled: bool = False  # whether the client or the ingress has stopped waiting

    @property
    def batch_key(self) -> tuple[int, int]:
        """Number of context frames and of predicted frames, which must be equal for all requests of a batch."""
        return len(self.frames), self.query["frames"]


class Replica:
    """Deployment that holds the model and predicts several requests as one batch.

    `serve.batch` closes a batch after a fixed time, which is much shorter than one prediction, so under load each
    request would be its own batch. Here a batch consists of the requests that are waiting when the replica can start
    one.
    """

    def __init__(self, root: str, row: str, device: str | None, threads: int) -> None:
        self.predictor = one_thread.compute(self._open, root, row, device, threads)
        self.waiting: list[PendingRequest] = []
        self.task: asyncio.Task[None] | None = None  # the batch loop

    def _open(self, root: str, row: str, device: str | None, threads: int) -> VideoPredictor:
        torch.set_num_threads(threads)
        predictor = VideoPredictor.open(root, row, device)
        for _ in predictor.stream(torch.zeros(1, 3, *predictor.size, dtype=torch.uint8), frames=1):  # warm-up
            pass
        return predictor

    def ready(self) -> tuple[tuple[int, int], float | None]:
        """Return the frames' height and width, and the rate if it is known; waits until the model is loaded."""
        return self.predictor.size, self.predictor.fps

    async def answer(self, arguments: tuple[Any, dict[str, Any]]) -> AsyncIterator[list[Picture]]:
        """Yield canvases and frames as PNGs, as soon as they are predicted; `arguments` are context and query."""
        request = PendingRequest(*arguments)
        self.waiting.append(request)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run_batches())
        try:
            while (pictures := await request.results.get()) is not None:
                if isinstance(pictures, Exception):
                    raise pictures
                yield pictures
        finally:
            request.cancelled = True

    async def _run_batches(self) -> None:
        """Predict until no request waits. The batches in progress alternate, one canvas or latent frame at a time."""
        batches: list[tuple[list[PendingRequest], Iterator[list[list[Picture]]]]] = []
        await asyncio.sleep(BATCH_WAIT_SECONDS)
        while batches or self.waiting:
            self.waiting = [request for request in self.waiting if not request.cancelled]
            while self.waiting and len(batches) < MAX_BATCHES:
                key = self.waiting[0].batch_key
                chosen = [request for request in self.waiting if request.batch_key == key][:BATCH_SIZE]
                self.waiting = [request for request in self.waiting if request not in chosen]
                batches.append((chosen, self._predict(chosen)))
            for batch in list(batches):
                requests, predictions = batch
                results: Sequence[list[Picture] | Exception | None] | None = None
                if not all(request.cancelled for request in requests):
                    try:
                        results = await one_thread.next_item(predictions)
                    except Exception as error:  # raise it in every request of the batch, and keep the replica running
                        results = [error] * len(requests)
                        batches.remove(batch)
                if results is None:
                    results = [None] * len(requests)
                    batches.remove(batch)
                for request, result in zip(requests, results, strict=True):
                    request.results.put_nowait(result)

    def _predict(self, requests: Sequence[PendingRequest]) -> Iterator[list[list[Picture]]]:
        """Predict a batch, and yield the new pictures of each request."""
        contexts = [self.predictor.prepare(request.frames) for request in requests]
        seeds = [request.query["seed"] for request in requests]
        for part in self.predictor.stream_batch(contexts, frames=requests[0].query["frames"], seeds=seeds):
            kind = "frame" if part.done else "canvas"
            if kind == "frame" or part.canvas is not None:
                yield [
                    [(kind, part.index + offset, galleries.png(frame)) for offset, frame in enumerate(frames.numpy())]
                    for frames in part.frames
                ]
