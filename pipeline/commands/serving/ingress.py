"""Deployment that reads and checks requests, passes them to a replica, and streams the results as JSON lines."""

import asyncio
import base64
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import ray
from ray import serve
from ray.util.metrics import Counter as RayCounter
from ray.util.metrics import Gauge as RayGauge
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from components.foundation.config import Config, parse, value
from components.foundation.errors import InputError
from components.foundation.files import to_json
from components.foundation.settings.ranges import NonNegative, within
from pipeline.commands.prediction import inputs
from pipeline.commands.prediction.inputs import Input

MAX_BYTES: Final = 20 * 2**20  # of a request
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


class RefusedError(Exception):
    """A refused request, with the HTTP status and the error message of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Ingress:
    """Deployment that reads and checks requests, passes them to a replica, and streams the results as JSON lines."""

    def __init__(self, replicas: Any, limits: Limits) -> None:
        self.replicas, self.streams, self.limits = replicas, replicas.options(stream=True), limits
        self.form: tuple[tuple[int, int], float | None] | None = None  # size and frame rate
        self.counts: Counter[tuple[str, str]] = Counter()
        self.running = 0
        # the same numbers among Ray's own metrics, which a cluster collects from all nodes
        self.exported = {
            "requests": RayCounter("canvasmar_requests", "Requests by status of HTTP.", ("status",)),
            "replica_deaths": RayCounter("canvasmar_replica_deaths", "Replicas that died in a request.", ("status",)),
        }
        self.exported_running = RayGauge("canvasmar_running", "Requests in progress.")

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
        self.count("requests", response.status_code)
        return response

    def count(self, name: str, status: int) -> None:
        """Count an event for `/metrics` and for Ray's metrics."""
        self.counts[name, str(status)] += 1
        self.exported[name].inc(tags={"status": str(status)})

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
        self.exported_running.set(self.running)
        try:
            found = await self.read(request, query)
            async with aclosing(self.json_lines(found, query)) as lines:
                async for line in lines:
                    yield line
        finally:
            self.running -= 1
            self.exported_running.set(self.running)

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
                self.count("replica_deaths", 503)
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
    try:
        if unknown := [name for name in query if name not in DEFAULTS]:
            raise InputError(f"the query: unknown key {unknown[0]!r}; the keys are {', '.join(DEFAULTS)}")
        values = {name: value(text) for name, text in query.items()}
        if empty := [name for name, given in values.items() if given is None]:
            raise InputError(f"the query: {empty[0]!r} has no value; give one, or leave the field out")
        parsed = parse(Query, DEFAULTS | values, where="the query")
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    return parsed.model_dump()
