"""Command `serve`: an HTTP server that takes a video and streams its predicted frames, each preceded by its canvas.

The server is a Ray Serve application: one ingress deployment reads requests and passes them to replicas of the model.
"""

import asyncio
import base64
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import torch

from components.foundation.config import Config, parse, value
from components.foundation.errors import InputError
from components.foundation.files import to_json
from components.foundation.parallel import cpu_count
from components.foundation.settings.ranges import NonNegative, within
from components.pictures import galleries
from components.telemetry.progress import say
from pipeline.commands import one_thread
from pipeline.commands.prediction import inputs
from pipeline.commands.prediction.inputs import Input
from pipeline.commands.video_predictor import VideoPredictor, usable_device
from pipeline.runtime import environment, network

environment.apply(Path.cwd())  # before the import: Ray reads its settings from the environment only then

import ray  # noqa: E402

try:
    from ray import serve
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
except ImportError:
    raise InputError("`canvasmar serve` needs Ray Serve; install it with `pip install -e '.[serve]'`") from None

MAX_BYTES: Final = 20 * 2**20  # of a request
BATCH_SIZE: Final = 8  # requests
MAX_BATCHES: Final = 2  # batches that alternate on a replica, so that a new request need not wait for a whole batch
BATCH_WAIT_SECONDS: Final = 0.02  # an idle replica waits this long for more requests after the first one
MAX_ONGOING: Final = 3 * BATCH_SIZE  # requests of a replica: two batches in progress, and the next one
RETRY_SECONDS: Final = 5  # value of Retry-After in responses with status 503
MAX_ATTEMPTS: Final = 3  # per request, if replicas die
CONTENT_TYPES: Final = ("video/", "image/gif", "application/octet-stream")  # prefixes


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a request, and the maximum number of concurrent requests."""

    body_seconds: float = 20.0  # to receive the body
    answer_seconds: float = 120.0  # from the complete body to the last frame
    requests: int = 64  # in progress or waiting for a replica; further requests get status 503


Length = Annotated[int, within(ge=1, le=64)]  # frames


class Query(Config):
    """Query parameters of a request."""

    frames: Length
    context: Length | None  # null for inputs.CONTEXT, or all frames of a shorter video
    start: NonNegative | None  # seconds from the start of the video to the context; null for the end of the video
    seed: Annotated[int, within(ge=0, lt=2**63)]


DEFAULTS: Final = {"frames": 16, "context": None, "start": None, "seed": 0}

Picture = tuple[str, int, bytes]  # "canvas" or "frame", index of the predicted frame, PNG

_deployment: Any = serve.deployment  # Ray's type hints allow functions only, not classes


class RefusedError(Exception):
    """A refused request, with the HTTP status and the error message of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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


class Ingress:
    """Deployment that reads and checks requests, passes them to a replica, and streams the results as JSON lines."""

    def __init__(self, replicas: Any, limits: Limits) -> None:
        self.replicas, self.streams, self.limits = replicas, replicas.options(stream=True), limits
        self.form: tuple[tuple[int, int], float | None] | None = None  # size and frame rate
        self.counts: Counter[tuple[str, str]] = Counter()
        self.running = 0

    async def __call__(self, request: Request) -> Response:
        """Respond to any HTTP request."""
        prefix = request.scope.get("root_path", "")  # route prefix of the application
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
                    raise RefusedError(405, f"{method} is not allowed on {path}; POST to /predict, GET the other paths")
                case _:
                    raise RefusedError(
                        404, f"unknown path {path}; POST a video to /predict, or GET /health or /metrics"
                    )
        except RefusedError as refusal:
            headers = {"Retry-After": str(RETRY_SECONDS)} if refusal.status == 503 else {}
            response = JSONResponse({"error": str(refusal)}, refusal.status, headers)
        self.counts["requests", str(response.status_code)] += 1
        return response

    async def health(self) -> Response:
        """Respond with 200 if a replica replies within five seconds, else with 503."""
        (height, width), _ = await self.ready()
        return JSONResponse({"status": "ok", "height": height, "width": width})

    async def ready(self) -> tuple[tuple[int, int], float | None]:
        """Ask a replica for the frames' size and rate. Raise RefusedError if none replies within five seconds."""
        try:
            form: tuple[tuple[int, int], float | None] = await asyncio.wait_for(self.replicas.ready.remote(), 5)
            return form
        except Exception as error:  # any error means that no replica can predict now
            raise RefusedError(503, f"no replica responds ({type(error).__name__}); try again later") from None

    def metrics(self) -> str:
        """Return the counters and the number of running requests in the text format of Prometheus."""
        lines = [f'canvasmar_{name}_total{{status="{label}"}} {count}' for (name, label), count in self.counts.items()]
        return "\n".join([*sorted(lines), f"canvasmar_running {self.running}", ""])

    async def predict(self, request: Request) -> Response:
        """Respond with a stream of JSON lines. Raise RefusedError if the request fails before the first line."""
        query = parse_query(dict(request.query_params))
        content_type = request.headers.get("content-type", "application/octet-stream").lower()
        if not content_type.startswith(CONTENT_TYPES):
            raise RefusedError(
                415, f"the content type is {content_type[:80]!r}; send a video as video/mp4 or application/octet-stream"
            )
        if self.running >= self.limits.requests:
            raise RefusedError(503, f"{self.running} requests are in progress; try again in a few seconds")
        lines = self.answer(request, query)
        first = await anext(lines)  # before the status is sent, so that a failure gets its own status
        return StreamingResponse(prepend(first, lines), media_type="application/x-ndjson")

    async def answer(self, request: Request, query: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield all JSON lines. The request counts as running until the end, or until the client disconnects."""
        self.running += 1
        try:
            found = await self.read(request, query)
            async with aclosing(self.json_lines(found, query)) as lines:
                async for line in lines:
                    yield line
        finally:
            self.running -= 1

    async def read(self, request: Request, query: dict[str, Any]) -> Input:
        """Return the context frames of the request's video, and what was done to the video. No more of it is decoded.

        Raise RefusedError if the body is late, incomplete, too large, no video, or has fewer frames than the context.
        """
        with tempfile.NamedTemporaryFile(suffix=".video") as file:
            length = 0
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    async for chunk in request.stream():
                        length += len(chunk)
                        if length > MAX_BYTES:
                            raise RefusedError(413, f"the video is larger than {MAX_BYTES // 2**20} MB; shorten it")
                        file.write(chunk)
            except TimeoutError:
                message = f"the video took longer than {self.limits.body_seconds:.0f} s to arrive; send a smaller one"
                raise RefusedError(408, message) from None
            except ClientDisconnect:
                raise RefusedError(400, "the connection closed before the whole video arrived; send it again") from None
            file.flush()
            self.form = self.form or await self.ready()
            reading = asyncio.to_thread(
                inputs.read, Path(file.name), *self.form, start=query["start"], context=query["context"]
            )
            try:
                return await asyncio.wait_for(reading, self.limits.body_seconds)
            except TimeoutError:
                message = f"the video took longer than {self.limits.body_seconds:.0f} s to read; send a shorter one"
                raise RefusedError(422, message) from None
            except InputError as error:
                status = 422 if isinstance(error, inputs.TooShortError) else 400
                raise RefusedError(status, str(error).replace(file.name, "the video")) from None

    async def json_lines(self, found: Input, query: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the JSON lines of a response. If a replica dies, continue on another after the last line sent."""
        context, end = found.context.numpy(), {"kind": "end", "frames": query["frames"], "input": found.account}
        sent, started, limit = 0, time.perf_counter(), self.limits.answer_seconds
        for attempt in range(MAX_ATTEMPTS):
            try:
                received = 0
                answer = self.streams.answer.remote((context, query))
                while True:
                    remaining = started + limit - time.perf_counter()
                    pictures = await asyncio.wait_for(anext(answer, None), remaining)
                    if pictures is None:
                        yield json_line(end | {"seconds": elapsed(started)})
                        return
                    received += 1
                    if received > sent:  # skip what was sent already: all replicas return the same pictures
                        sent = received
                        for kind, index, png in pictures:
                            content = base64.b64encode(png).decode()
                            yield json_line({"kind": kind, "index": index, "seconds": elapsed(started), "png": content})
            except TimeoutError:
                answer.cancel()
                problem = 504, f"the response took longer than {limit:.0f} s; request fewer frames"
                break
            except serve.exceptions.BackPressureError:
                problem = 503, "too many requests are waiting; try again in a few seconds"
                break
            except (ray.exceptions.RayActorError, serve.exceptions.RayServeException):
                problem = 503, f"{attempt + 1} replicas died during this request; try again"
                self.counts["replica_deaths", "503"] += 1
        if not sent:
            raise RefusedError(*problem)
        yield json_line({"kind": "error", "status": problem[0], "error": problem[1]})


async def prepend(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the first line, and then the rest."""
    yield first
    async for line in rest:
        yield line


def json_line(content: dict[str, Any]) -> str:
    """Return the content as one line of JSON."""
    return to_json(content) + "\n"


def elapsed(started: float) -> float:
    """Return the seconds since `started`, a value of `time.perf_counter`."""
    return round(time.perf_counter() - started, 4)


def parse_query(query: dict[str, str]) -> dict[str, Any]:
    """Return the query parameters with defaults. Raise RefusedError if one is unknown or invalid."""
    for name, text in query.items():
        if value(text) is None:
            raise RefusedError(422, f"the query: {name} has no value; give one, or leave {name} out")
    try:
        parsed = parse(Query, DEFAULTS | {name: value(text) for name, text in query.items()}, where="the query")
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    return parsed.model_dump()


def application(root: Path, row: str, device: str | None, replicas: int, limits: Limits) -> Any:
    """Return the Ray Serve application: the ingress and `replicas` replicas of a trained row."""
    gpus = 1.0 if torch.cuda.is_available() and device != "cpu" else 0.0
    threads = max(1, (cpu_count() - 1) // replicas)  # leaves one CPU to read requests and encode pictures
    resources = {"num_cpus": 0.5, "num_gpus": gpus}
    model = _deployment(
        Replica, num_replicas=replicas, max_ongoing_requests=MAX_ONGOING, ray_actor_options=resources
    )  # fmt: skip
    ingress = _deployment(Ingress, max_ongoing_requests=4 * limits.requests, ray_actor_options={"num_cpus": 0})
    return ingress.bind(model.bind(str(root.resolve()), row, device, threads), limits)


def listen(port: int) -> None:
    """Open the port on this machine's loopback; applications can be added later."""
    options = {"host": "127.0.0.1", "port": port, "keep_alive_timeout_s": 5}
    serve.start(http_options=options, logging_config={"log_level": "ERROR", "enable_access_log": False})


def start(root: Path, row: str, device: str | None, replicas: int, port: int) -> None:
    """Start the server on this machine's loopback and return. Raise InputError if the row is not trained."""
    predictor = VideoPredictor.open(root, row, device)  # raises InputError here instead of a traceback in a replica
    if predictor.row and predictor.row.notice:
        say(f"serve: {predictor.row.notice}")
    listen(port)
    serve.run(application(root, row, device, replicas, Limits()), name="canvasmar", route_prefix="/")


def run(root: Path, row: str, device: str | None, replicas: int, port: int) -> None:
    """Serve a trained row on this machine's loopback until Ctrl-C.

    Raise InputError if the row is not trained, the port is in use, or torch cannot use the device.
    """
    from pipeline.runtime import cluster

    network.require_free_port(port, "--port")
    usable_device(device)
    with cluster.connect(root):
        start(root, row, device, replicas, port)
        say(f"serve: POST a video to http://127.0.0.1:{port}/predict\nPress Ctrl-C to stop the server.")
        try:
            while True:
                time.sleep(3600)
        finally:
            serve.shutdown()
