"""`python -m benchmarks.serving VIDEO`: how a running server bears several clients at once.

Each client asks again as soon as it has its answer. Start `python -m pipeline.serve --row ROW` before; clients on the
same machine take a part of it.
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
from components.errors import InputError

COLUMNS = (
    "clients", "requests", "refused", "requests a second", "frames a second",
    "first picture p50 ms", "first picture p99 ms", "first frame p50 ms", "first frame p99 ms",
    "total p50 ms", "total p99 ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first line, to the first frame and to the end; nothing of a request that was turned away."""

    status: int
    picture: float = 0.0
    frame: float = 0.0
    total: float = 0.0


def ask(address: str, body: bytes, frames: int, seed: int) -> Answer:
    """One request, read line by line."""
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
    """All answers, and the seconds from the first question to the last answer."""
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
    """A line of the table."""
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
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=main.__doc__)
    parser.add_argument("video", type=Path, help="what every client sends")
    parser.add_argument("--address", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="default: 1 4 16 64")
    parser.add_argument("--requests", type=int, default=64, help="of all clients together (default: 64)")
    parser.add_argument("--frames", type=int, default=16, help="of each prediction (default: 16)")
    parser.add_argument("--out", type=Path, help="a file for the table, .json or .md")
    given = parser.parse_args()
    try:
        table.check_out(given.out)
        body = given.video.read_bytes()
        if (first := ask(given.address, body, given.frames, 0)).status != 200:
            raise InputError(f"{given.address} answers with {first.status}; see what it says with curl")
    except OSError as error:
        raise SystemExit(f"error: {error}; start `python -m pipeline.serve --row ROW`, or correct the path") from None
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
