"""`python -m benchmarks.serving VIDEO`: throughput and latency of a running server with several concurrent clients.

Each client sends its next request as soon as it has its answer.
First start `canvasmar serve --row ROW`.
Clients on the same machine compete with the server for its CPUs.
"""

import argparse
import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

from benchmarks import table
from benchmarks.table import Table, Value
from components.foundation.errors import InputError

COLUMNS = (
    "clients", "requests", "refused", "requests a second", "frames a second",
    "first picture p50 ms", "first picture p99 ms", "first frame p50 ms", "first frame p99 ms",
    "total p50 ms", "total p99 ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status, and seconds to the first line, the first frame and the end; 0 for a refused request."""

    status: int
    picture: float = 0.0
    frame: float = 0.0
    total: float = 0.0


def ask(address: str, body: bytes, frames: int, seed: int) -> Answer:
    """Send one request and time the lines of its answer."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    connection.request("POST", f"/predict?frames={frames}&seed={seed}", body, {"Content-Type": "video/mp4"})
    answer = connection.getresponse()
    if answer.status != 200:
        answer.read()
        return Answer(answer.status)
    marks: dict[str, float] = {}
    for line in answer:
        marks.setdefault("line", time.perf_counter() - began)
        marks.setdefault(json.loads(line)["kind"], time.perf_counter() - began)
    connection.close()
    return Answer(200 if "end" in marks else 0, marks["line"], marks.get("frame", 0.0), marks.get("end", 0.0))


def load(address: str, body: bytes, frames: int, clients: int, requests: int) -> tuple[list[Answer], float]:
    """Return all answers, and the seconds from the first request to the last answer."""
    left, lock, answers = iter(range(requests)), threading.Lock(), []

    def client() -> None:
        while True:
            with lock:
                seed = next(left, None)
            if seed is None:
                return
            answers.append(ask(address, body, frames, seed))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - began


def row(clients: int, frames: int, answers: Sequence[Answer], seconds: float) -> dict[str, Value]:
    """Return one row of the table; `seconds` is the time from the first request to the last answer."""
    good = [answer for answer in answers if answer.status == 200]
    found: dict[str, Value] = {
        **dict.fromkeys(COLUMNS),
        "clients": clients,
        "requests": len(answers),
        "refused": len(answers) - len(good),
        "requests a second": len(good) / seconds,
        "frames a second": len(good) * frames / seconds,
    }
    for name, attribute in (("first picture", "picture"), ("first frame", "frame"), ("total", "total")):
        times = [1000 * getattr(answer, attribute) for answer in good]
        if len(times) > 1:
            parts = quantiles(times, n=100, method="inclusive")
            found |= {f"{name} p50 ms": parts[49], f"{name} p99 ms": parts[98]}
    return found


def main() -> None:
    """Measure a running server; print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=main.__doc__)
    parser.add_argument("video", type=Path, help="video that every client sends")
    parser.add_argument("--address", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="default: 1 4 16 64")
    parser.add_argument("--requests", type=int, default=64, help="requests of all clients together (default: 64)")
    parser.add_argument("--frames", type=int, default=16, help="frames of each prediction (default: 16)")
    parser.add_argument("--out", type=Path, help="file for the table, .json or .md")
    given = parser.parse_args()
    try:
        table.check_out(given.out)
        body = given.video.read_bytes()
        if (first := ask(given.address, body, given.frames, 0)).status != 200:
            raise InputError(f"{given.address} answers with HTTP status {first.status}; read its message with curl")
    except OSError as error:
        raise SystemExit(f"error: {error}; start `canvasmar serve --row ROW` or correct the video path") from None
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    lines = [
        row(count, given.frames, *load(given.address, body, given.frames, count, given.requests))
        for count in given.clients
    ]
    found = Table("Serving", {"frames a request": given.frames, "address": given.address}, COLUMNS, lines)
    table.show(found)
    if given.out:
        table.write(given.out, found)


if __name__ == "__main__":
    main()
