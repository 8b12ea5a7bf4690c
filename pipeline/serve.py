"""Command `serve`: an address that takes a video and streams its continuation, each frame's canvas first.

A door to Ray of its own: replicas of a model behind one gate, which reads the requests and answers all of them.
"""

import argparse
import asyncio
import base64
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field

from components.config import Config, parse, value
from components.errors import InputError
from components.reporting import galleries
from pipeline import environment, one_thread, stage
from pipeline.progress import say
from pipeline.video_predictor import VideoPredictor, read_limited

environment.apply(Path.cwd())  # Ray reads its settings when it is imported, and not again

import ray  # noqa: E402

try:
    from ray import serve
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
except ImportError:
    raise SystemExit("error: serving needs Ray Serve; install it with `pip install -e '.[serve]'`") from None

MOST_BYTES: Final = 20 * 2**20  # of a request
MOST_FRAMES: Final = 300  # of its video
BATCH: Final = 8  # requests that are predicted together
BATCHES: Final = 2  # that take turns, so that a request's first picture need not wait for all frames of another
GATHER_SECONDS: Final = 0.02  # that the first request of an idle replica waits for others
RUNNING: Final = 3 * BATCH  # requests that a replica holds: of these batches, and of the next one
RETRY_SECONDS: Final = 5  # that a client who is turned away should wait
ATTEMPTS: Final = 3  # at a request whose replica has died
KINDS: Final = ("video/", "image/gif", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a request may take, and how many may be under way."""

    body_seconds: float = 20.0  # until it has arrived
    answer_seconds: float = 120.0  # from then on, until the last frame
    queue: int = 64  # that are being answered or wait for a replica; more are turned away


class Question(Config):
    """What may be asked for beside the video."""

    frames: int = Field(ge=1, le=64)
    context: int = Field(ge=1, le=64)
    seed: int = Field(ge=0, lt=2**63)


USUAL: Final = {"frames": 16, "context": 1, "seed": 0}

Piece = tuple[str, int, bytes]  # canvas or frame, its place, and its PNG

_deployment: Any = serve.deployment  # typed for functions, and not for classes


class RefusedError(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(eq=False, slots=True)
class Waiting:
    """A request at a replica."""

    frames: Any  # uint8 numpy, f c h w
    question: dict[str, int]
    answers: "asyncio.Queue[list[Piece] | Exception | None]" = field(default_factory=asyncio.Queue)
    gone: bool = False  # nobody waits for it any more

    @property
    def kind(self) -> tuple[int, int]:
        """What the requests of a batch have in common: how many frames are given, and how many asked for."""
        return len(self.frames), self.question["frames"]


class Replica:
    """A model that predicts for several requests at once.

    Ray Serve's own batches are for functions that soon return: it closes a batch long before the model is free for it,
    so that under load each request would be a batch of its own. Here a batch is what waits when there is room for one.
    """

    def __init__(self, root: str, row: str, device: str | None, threads: int) -> None:
        self.predictor = one_thread.compute(self._open, root, row, device, threads)
        self.waiting: list[Waiting] = []
        self.work: asyncio.Task[None] | None = None

    def _open(self, root: str, row: str, device: str | None, threads: int) -> VideoPredictor:
        torch.set_num_threads(threads)
        predictor = VideoPredictor.open(root, row, device)
        for _ in predictor.stream(torch.zeros(1, 3, *predictor.size, dtype=torch.uint8), frames=1):  # warms up
            pass
        return predictor

    def ready(self) -> tuple[int, int]:
        """Height and width of its frames, once it is there."""
        return self.predictor.size

    async def answer(self, request: tuple[Any, dict[str, int]]) -> AsyncIterator[list[Piece]]:
        """Canvases and frames as PNGs, as soon as they stand."""
        own = Waiting(*request)
        self.waiting.append(own)
        if self.work is None or self.work.done():
            self.work = asyncio.create_task(self._work())
        try:
            while (pieces := await own.answers.get()) is not None:
                if isinstance(pieces, Exception):
                    raise pieces
                yield pieces
        finally:
            own.gone = True

    async def _work(self) -> None:
        """Until nobody waits: the batches take turns, a picture each; a new one begins where one has ended."""
        batches: list[tuple[list[Waiting], Iterator[list[list[Piece]]]]] = []
        await asyncio.sleep(GATHER_SECONDS)
        while batches or self.waiting:
            self.waiting = [one for one in self.waiting if not one.gone]
            while self.waiting and len(batches) < BATCHES:
                kind = self.waiting[0].kind
                taken = [one for one in self.waiting if one.kind == kind][:BATCH]
                self.waiting = [one for one in self.waiting if one not in taken]
                batches.append((taken, self._run(taken)))
            for batch in list(batches):
                rows, run = batch
                pieces: Sequence[list[Piece] | Exception | None] | None = None
                if not all(one.gone for one in rows):
                    try:
                        pieces = await one_thread.advance(run)
                    except Exception as error:  # whatever it is belongs to those who asked
                        pieces = [error] * len(rows)
                        batches.remove(batch)
                if pieces is None:
                    pieces = [None] * len(rows)
                    batches.remove(batch)
                for one, piece in zip(rows, pieces, strict=True):
                    one.answers.put_nowait(piece)

    def _run(self, rows: Sequence[Waiting]) -> Iterator[list[list[Piece]]]:
        """For each request of the batch what is new."""
        videos = [self.predictor.prepare(one.frames) for one in rows]
        seeds = [one.question["seed"] for one in rows]
        for glimpse in self.predictor.together(videos, frames=rows[0].question["frames"], seeds=seeds):
            kind = "frame" if glimpse.done else "canvas"
            if kind == "frame" or glimpse.canvas is not None:
                yield [
                    [(kind, glimpse.index + place, galleries.png(frame)) for place, frame in enumerate(row.numpy())]
                    for row in glimpse.frames
                ]


class Gate:
    """Reads and checks requests, hands them to a replica, and streams the answer as lines of JSON."""

    def __init__(self, replicas: Any, limits: Limits) -> None:
        self.replicas, self.streams, self.limits = replicas, replicas.options(stream=True), limits
        self.size: tuple[int, int] | None = None
        self.counts: Counter[tuple[str, str]] = Counter()
        self.running = 0

    async def __call__(self, request: Request) -> Response:
        """The answer to any request."""
        prefix = request.scope.get("root_path", "")  # of an application that does not stand at the address's root
        path, method = request.url.path.removeprefix(prefix).rstrip("/") or "/", request.method
        try:
            match path, method:
                case "/predict", "POST":
                    response = await self.predict(request)
                case "/health", "GET":
                    response = await self.health()
                case "/metrics", "GET":
                    response = PlainTextResponse(self.metrics())
                case "/predict" | "/health" | "/metrics", _:
                    raise RefusedError(405, f"{method} is not for {path}; POST a video to /predict, GET the others")
                case _:
                    raise RefusedError(404, f"there is no {path}; POST a video to /predict, or GET /health or /metrics")
        except RefusedError as refusal:
            later = {"Retry-After": str(RETRY_SECONDS)} if refusal.status == 503 else {}
            response = JSONResponse({"error": str(refusal)}, refusal.status, later)
        self.counts["requests", str(response.status_code)] += 1
        return response

    async def health(self) -> Response:
        """200 if a replica answers within a few seconds, else 503."""
        height, width = await self.ready()
        return JSONResponse({"status": "ok", "height": height, "width": width})

    async def ready(self) -> tuple[int, int]:
        """Height and width of the frames. Raises RefusedError if no replica tells them within a few seconds."""
        try:
            size: tuple[int, int] = await asyncio.wait_for(self.replicas.ready.remote(), 5)
            return size
        except Exception as error:  # whatever it is, there is no replica to answer
            raise RefusedError(503, f"no replica answers ({type(error).__name__}); try again later") from None

    def metrics(self) -> str:
        """Counts and seconds in Prometheus's text format."""
        lines = [f'canvasmar_{name}_total{{status="{label}"}} {count}' for (name, label), count in self.counts.items()]
        return "\n".join([*sorted(lines), f"canvasmar_running {self.running}", ""])

    async def predict(self, request: Request) -> Response:
        """The stream of an answer; its first line has come when the status is sent."""
        question = asked(dict(request.query_params))
        kind = request.headers.get("content-type", "application/octet-stream").lower()
        if not kind.startswith(KINDS):
            raise RefusedError(
                415, f"the content type is {kind[:80]!r}; send a video as video/mp4 or application/octet-stream"
            )
        if self.running >= self.limits.queue:
            raise RefusedError(503, f"{self.running} requests are being answered; try again in a few seconds")
        answer = self.answer(request, question)
        first = await anext(answer)
        return StreamingResponse(again(first, answer), media_type="application/x-ndjson")

    async def answer(self, request: Request, question: dict[str, int]) -> AsyncGenerator[str, None]:
        """All lines; afterwards the request is no longer running, whatever became of its client."""
        self.running += 1
        try:
            given = await self.read(request, question)
            async with aclosing(self.lines(given, question)) as lines:
                async for one in lines:
                    yield one
        finally:
            self.running -= 1

    async def read(self, request: Request, question: dict[str, int]) -> Any:
        """The frames that are given, as the model takes them."""
        with tempfile.NamedTemporaryFile(suffix=".video") as file:
            length = 0
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    async for chunk in request.stream():
                        length += len(chunk)
                        if length > MOST_BYTES:
                            raise RefusedError(413, f"the video is larger than {MOST_BYTES // 2**20} MB; cut it")
                        file.write(chunk)
            except TimeoutError:
                sentence = f"the video took longer than {self.limits.body_seconds:.0f} s to arrive; send a smaller one"
                raise RefusedError(408, sentence) from None
            except ClientDisconnect:
                raise RefusedError(400, "the connection ended before the video did") from None
            file.flush()
            self.size = self.size or await self.ready()
            try:
                frames = await asyncio.to_thread(read_limited, Path(file.name), self.size, MOST_FRAMES)
            except InputError as error:
                raise RefusedError(400, str(error).replace(file.name, "the video")) from None
        if question["context"] > len(frames):
            raise RefusedError(
                422, f"context is {question['context']}, but the video has {len(frames)} frames; ask for fewer"
            )
        return frames[: question["context"]].numpy()

    async def lines(self, given: Any, question: dict[str, int]) -> AsyncGenerator[str, None]:
        """Lines of JSON; a replica that dies is replaced by another, which goes on where it was."""
        sent, began, most = 0, time.perf_counter(), self.limits.answer_seconds
        for attempt in range(ATTEMPTS):
            try:
                place = 0
                answer = self.streams.answer.remote((given, question))
                while True:
                    left = began + most - time.perf_counter()
                    pieces = await asyncio.wait_for(anext(answer, None), left)
                    if pieces is None:
                        yield line({"kind": "end", "frames": question["frames"], "seconds": passed(began)})
                        return
                    place += 1
                    if place > sent:  # the same request has the same answer, from whichever replica
                        sent = place
                        for kind, index, png in pieces:
                            content = base64.b64encode(png).decode()
                            yield line({"kind": kind, "index": index, "seconds": passed(began), "png": content})
            except TimeoutError:
                answer.cancel()
                problem = 504, f"the answer took longer than {most:.0f} s; ask for fewer frames"
                break
            except serve.exceptions.BackPressureError:
                problem = 503, "too many requests are waiting; try again in a few seconds"
                break
            except (ray.exceptions.RayActorError, serve.exceptions.RayServeException):
                problem = 503, f"the replica died {attempt + 1} times while it answered; try again"
                self.counts["replica_deaths", "503"] += 1
        if not sent:
            raise RefusedError(*problem)
        yield line({"kind": "error", "status": problem[0], "error": problem[1]})


async def again(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """A line that has been taken, and the rest."""
    yield first
    async for one in rest:
        yield one


def line(content: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(content) + "\n"


def passed(began: float) -> float:
    """Seconds since then."""
    return round(time.perf_counter() - began, 4)


def asked(query: dict[str, str]) -> dict[str, int]:
    """The question in a query. Raises RefusedError for what may not be asked for."""
    try:
        found = parse(Question, USUAL | {name: value(text) for name, text in query.items()}, where="the query")
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    return found.model_dump()


def application(root: Path, row: str, device: str | None, replicas: int, limits: Limits) -> Any:
    """The gate before so many replicas of a trained row."""
    gpus = 1.0 if torch.cuda.is_available() and device != "cpu" else 0.0
    threads = max(1, ((os.cpu_count() or 1) - 1) // replicas)  # one CPU is for those who read, write and answer
    resources = {"num_cpus": 0.5, "num_gpus": gpus}
    model = _deployment(
        Replica, num_replicas=replicas, max_ongoing_requests=RUNNING, ray_actor_options=resources
    )  # fmt: skip
    gate = _deployment(Gate, max_ongoing_requests=4 * limits.queue, ray_actor_options={"num_cpus": 0})
    return gate.bind(model.bind(str(root.resolve()), row, device, threads), limits)


def listen(port: int) -> None:
    """Opens the port on this machine's loopback, before any application."""
    options = {"host": "127.0.0.1", "port": port, "keep_alive_timeout_s": 5}
    serve.start(http_options=options, logging_config={"log_level": "ERROR", "enable_access_log": False})


def start(root: Path, row: str, device: str | None, replicas: int, port: int) -> None:
    """Starts serving on this machine's loopback and returns. Raises InputError if the row is not trained."""
    VideoPredictor.open(root, row, device)  # a sentence here rather than a trace from a replica
    listen(port)
    serve.run(application(root, row, device, replicas, Limits()), name="canvasmar", route_prefix="/")


def main() -> None:
    """Serves a trained experiment on this machine's loopback until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.serve", description=main.__doc__)
    parser.add_argument("--row", required=True, help="a trained entry of the table experiments in params.yaml")
    parser.add_argument("--replicas", type=int, default=1, help="processes that predict (default: 1)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU for each replica when there is one)")
    arguments = parser.parse_args()
    with stage.command() as root:
        if arguments.replicas < 1:
            raise InputError(f"--replicas is {arguments.replicas}; it must be at least 1")
        from pipeline import cluster

        with cluster.connect(root):
            start(root, arguments.row, arguments.device, arguments.replicas, arguments.port)
            say(f"serve: POST a video to http://127.0.0.1:{arguments.port}/predict\nCtrl-C ends it")
            try:
                while True:
                    time.sleep(3600)
            finally:
                serve.shutdown()


if __name__ == "__main__":
    main()
