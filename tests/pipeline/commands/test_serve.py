"""The command `serve`: streams, refused requests, batches, limits, and replicas that are killed."""

import asyncio
import base64
import io
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from components.video import video
from pipeline.commands.prediction import inputs
from pipeline.commands.video_predictor import VideoPredictor
from tests.pipeline.untrained import build

pytestmark = pytest.mark.faults
PORT = 8947
ADDRESS = f"http://127.0.0.1:{PORT}"
MP4 = {"content-type": "video/mp4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rows, and an open port in which no application listens yet."""
    from pipeline.commands import serve  # before Ray, which reads its settings when it is imported

    # isort: split
    import ray

    folder = build(tmp_path_factory.mktemp("served"))
    for part in ("models", "searches"):
        shutil.copytree(folder / "data" / part / "kuka-canvasmar", folder / "data" / part / "slow")
    sampled(folder, "kuka-canvasmar", flow_steps=20)
    sampled(folder, "slow", flow_steps=steps_of(folder, 30), sets=1)  # a canvas at once, and its frame after 30 s
    ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20, num_cpus=2, log_to_driver=False)
    try:
        serve.listen(PORT)
        yield folder
    finally:
        serve.serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def served(folder):
    from pipeline.commands import serve

    serve.start(folder, "kuka-canvasmar", "cpu", 2, PORT)
    return folder


@pytest.fixture(scope="module")
def hurried(folder):
    """An application beside the other: a slow row, little time for it, and two requests at most."""
    from pipeline.commands import serve

    limits = serve.Limits(body_seconds=1, answer_seconds=8, requests=2)  # a busy machine takes seconds to the canvas
    serve.serve.run(serve.application(folder, "slow", "cpu", 1, limits), name="hurried", route_prefix="/hurried")
    yield f"{ADDRESS}/hurried"
    serve.serve.delete("hurried")


def steps_of(folder: Path, seconds: float, tried: int = 2000) -> int:
    """How many steps of the flow make a frame of the slow row take so long on this machine."""
    sampled(folder, "slow", flow_steps=tried, sets=1)
    predictor = VideoPredictor.open(folder, "slow", "cpu")
    for _ in range(2):  # the first prediction loads what the second needs
        began = time.perf_counter()
        list(predictor.stream(torch.zeros(1, 3, *predictor.size, dtype=torch.uint8), frames=1))
    return round(tried * seconds / (time.perf_counter() - began))


def sampled(folder: Path, row: str, **settings: int) -> None:
    """Changes the sampler that a search chose."""
    best = folder / "data" / "searches" / row / "best.json"
    content = json.loads(best.read_text(encoding="utf-8"))
    best.write_text(json.dumps({"sampler": content["sampler"] | settings}), encoding="utf-8")


def begin(address: str, body: bytes, **question: int) -> tuple[requests.Response, Iterator[dict]]:
    """An answer whose lines are read as they come, once the replica has left what it was asked before."""
    until = time.monotonic() + 60
    while True:
        answer = requests.post(f"{address}/predict", data=body, params=question, headers=MP4, timeout=100, stream=True)
        if answer.status_code == 200 or time.monotonic() > until:
            break
    assert answer.status_code == 200, answer.text
    return answer, (json.loads(line) for line in answer.iter_lines())


def metric(address: str, name: str) -> int:
    found = re.search(
        rf"^canvasmar_{re.escape(name)} (\d+)$", requests.get(f"{address}/metrics", timeout=30).text, re.M
    )
    return int(found[1]) if found else 0


def eventually(claim: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it becomes true in this time."""
    until = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def ask(body: bytes, **question: int) -> list[dict]:
    answer = requests.post(f"{ADDRESS}/predict", data=body, params=question, headers=MP4, timeout=100)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def pictures(lines: list[dict], kind: str) -> torch.Tensor:
    found = [line for line in lines if line["kind"] == kind]
    assert [line["index"] for line in found] == list(range(len(found)))
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(line["png"])))) for line in found]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_requests_at_the_same_time_have_the_frames_of_their_own_seeds_canvas_first(served):
    film = served / "videos" / "one.mp4"
    body = film.read_bytes()
    questions = [{"seed": seed, "frames": 4, "context": context, "start": 0} for seed in range(4) for context in (1, 4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: ask(body, **question), questions))
    predictor = VideoPredictor.open(served, "kuka-canvasmar", "cpu")
    for question, lines in zip(questions, answers, strict=True):
        kinds = [line["kind"] for line in lines]
        assert kinds == ["canvas", "canvas", "frame", "frame"] * 2 + ["end"]
        context = predictor.prepare(film, context=question["context"])
        steps = list(predictor.stream(context, frames=4, seed=question["seed"]))
        for kind in ("canvas", "frame"):
            truth = torch.cat([getattr(step, kind) for step in steps]).int()
            assert (pictures(lines, kind).int() - truth).abs().max() <= 1  # another batch rounds sums otherwise


def test_a_long_video_is_continued_from_its_end_or_from_a_time(served, tmp_path):
    """Longer than any limit of a whole video, and only the context of it is decoded."""
    ramp = (torch.arange(1200) % 200)[:, None, None, None] + torch.linspace(0, 50, 48)
    video.write(tmp_path / "long.mp4", ramp.expand(1200, 3, 40, 48).to(torch.uint8), 8)
    body = (tmp_path / "long.mp4").read_bytes()
    predictor = VideoPredictor.open(served, "kuka-canvasmar", "cpu")
    for question, start, account in (
        ({}, None, "context: the last 5 frames, 149.38 to 149.88 s"),
        ({"start": 100, "context": 3}, 100.0, "context: 3 frames, 100.00 to 100.25 s"),
    ):
        lines = ask(body, frames=2, **question)
        found = inputs.read(tmp_path / "long.mp4", (32, 32), None, start=start, context=question.get("context"))
        context = predictor.prepare(found.context)
        truth = torch.cat([step.frame for step in predictor.stream(context, frames=2)]).int()
        assert (pictures(lines, "frame").int() - truth).abs().max() <= 1
        assert lines[-1]["input"].endswith(account)


def test_a_request_beyond_its_time_or_the_queue_is_told_so_and_leaves_nothing_behind(folder, hurried):
    body = (folder / "videos" / "one.mp4").read_bytes()
    _, lines = begin(hurried, body, frames=64)
    assert next(lines)["kind"] == "canvas"

    def plain() -> requests.Response:
        return requests.post(f"{hurried}/predict", data=body, headers=MP4, timeout=100)

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(plain)
        assert eventually(lambda: metric(hurried, "running") == 2, 2)
        third = plain()
        late = second.result()
    assert (third.status_code, third.json()["error"].split(";")[0]) == (503, "2 requests are in progress")
    assert int(third.headers["Retry-After"]) >= 1
    assert (late.status_code, late.json()["error"]) == (504, "the response took longer than 8 s; request fewer frames")
    last = list(lines)[-1]
    assert (last["kind"], last["status"], last["error"]) == ("error", 504, late.json()["error"])
    assert metric(hurried, "running") == 0
    # 64 frames would keep the replica for minutes; it has left them
    assert eventually(lambda: plain().status_code == 200, 150)


def test_a_body_that_does_not_arrive_is_given_up(hurried):
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as client:
        client.sendall(b"POST /hurried/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n")
        client.sendall(b"Connection: close\r\n\r\nonly this")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.split()[1] == b"408"
    assert b"the video took longer than 1 s to arrive" in body


def test_a_client_who_leaves_makes_room_for_others(folder, hurried):
    answer, lines = begin(hurried, (folder / "videos" / "one.mp4").read_bytes(), frames=2)
    assert next(lines)["kind"] == "canvas"
    assert metric(hurried, "running") == 1
    answer.close()
    assert eventually(lambda: metric(hurried, "running") == 0, 2)  # before its time is over


def test_a_batch_is_what_waits_when_there_is_room_and_two_take_turns(folder, monkeypatch):
    from pipeline.commands import serve

    replica, begun = serve.Replica(str(folder), "kuka-canvasmar", "cpu", 1), []
    predict, arrived = replica.predictor.stream_batch, threading.Event()

    def stream_batch(contexts, *, frames, seeds):
        begun.append(seeds)
        for part in predict(contexts, frames=frames, seeds=seeds):
            yield part
            arrived.wait(60)

    monkeypatch.setattr(replica.predictor, "stream_batch", stream_batch)
    frames, order, clients = np.zeros((1, 32, 32, 3), dtype=np.uint8), [], []

    async def client(seed: int) -> None:
        async for (kind, index, _), *_ in replica.answer((frames, {"frames": 4, "seed": seed})):
            order.append((seed, kind, index))
            if len(order) == 1:  # while the first one is predicted, the others come
                clients.extend(asyncio.create_task(client(later)) for later in range(1, 12))
                while len(replica.waiting) < 11:
                    await asyncio.sleep(0.05)
                arrived.set()

    async def main() -> None:
        await client(0)
        await asyncio.gather(*clients)

    asyncio.run(main())
    assert begun == [[0], list(range(1, 9)), [9, 10, 11]]
    assert order.index((1, "canvas", 0)) < order.index((0, "frame", 2))


def test_requests_whose_replicas_are_killed_one_after_the_other_have_all_their_frames(served):
    """One in the middle of its stream, and others that may not have begun."""
    import ray

    film = served / "videos" / "one.mp4"
    where = {"frames": 32, "context": 1, "start": 0}
    _, lines = begin(ADDRESS, film.read_bytes(), **where, seed=0)
    known = [next(lines)]
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(ask, film.read_bytes(), **where, seed=seed) for seed in (1, 2, 3)]
        replicas = [
            one for one in ray.util.list_named_actors(all_namespaces=True) if "canvasmar#Replica" in one["name"]
        ]
        assert len(replicas) == 2
        for replica in replicas:
            ray.kill(ray.get_actor(**replica))
            time.sleep(0.5)
        answers = [known + list(lines), *(other.result() for other in others)]
    assert metric(ADDRESS, 'replica_deaths_total{status="503"}') >= 1
    predictor = VideoPredictor.open(served, "kuka-canvasmar", "cpu")
    context = predictor.prepare(film, context=1)
    for seed, answer in enumerate(answers):
        assert answer[-1]["kind"] == "end", answer[-1]
        truth = torch.cat([step.frame for step in predictor.stream(context, frames=32, seed=seed)])
        assert (pictures(answer, "frame").int() - truth.int()).abs().max() <= 1


def test_a_hundred_malformed_requests_are_refused_each_with_its_sentence(served):
    whole = (served / "videos" / "one.mp4").read_bytes()
    chance = np.random.default_rng(0)
    bodies = [b"", b"text", whole[:200], whole[: len(whole) // 2], b"\0" * 21 * 2**20]
    bodies += [chance.bytes(int(size)) for size in chance.integers(1, 4000, 45)]
    queries = [{"frames": value} for value in ("0", "65", "-1", "x", "[1", "1.5", "", "null", "true", "ten")]
    queries += [{"seed": value} for value in ("-1", "x", "null", "", "0.5", "{}", "[0]", "one")]
    queries += [{"context": value} for value in ("21", "-2", "x", "", "0.5", "all")]
    queries += [{"start": "-1"}]
    queries += [{name: "1"} for name in ("steps", "Frames", "sets", "frames ", "guidance")]
    types = ("text/html", "text/plain", "application/json", "image/png", "multipart/form-data", "video")
    ways = [(method, path) for method in ("GET", "PUT", "DELETE") for path in ("/predict", "/x")]
    ways += [(method, path) for method in ("POST", "DELETE", "PATCH") for path in ("/health", "/metrics")]
    bad = [("POST", "/predict", {"data": body, "headers": MP4}) for body in bodies]
    bad += [("POST", "/predict", {"data": whole, "headers": MP4, "params": query}) for query in queries]
    bad += [("POST", "/predict", {"data": whole, "headers": {"content-type": kind}}) for kind in types]
    bad += [(method, path, {}) for method, path in (*ways, ("POST", "/"), ("POST", "/x/../y"))]
    assert len({repr(one) for one in bad}) == len(bad) == 100

    def refused(one):
        method, path, rest = one
        answer = requests.request(method, ADDRESS + path, timeout=60, **rest)
        return answer.status_code, answer.json()["error"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(refused, bad))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {400, 404, 405, 413, 415, 422}
    assert all(sentence and "Traceback" not in sentence for _, sentence in answers)
    assert requests.get(f"{ADDRESS}/health", timeout=30).json() == {"status": "ok", "height": 32, "width": 32}
    counted = dict(
        re.findall(r'requests_total\{status="(\d+)"\} (\d+)', requests.get(f"{ADDRESS}/metrics", timeout=30).text)
    )
    assert {status: int(counted[str(status)]) for status in set(statuses)} == {
        status: statuses.count(status) for status in set(statuses)
    }


def test_ray_serve_runs_the_application_by_its_name_with_replicas_by_the_load(folder):
    """As `serve run pipeline.commands.serve:app row=kuka-canvasmar replicas=1:2` does."""
    from pipeline.commands import serve

    given = {"row": "kuka-canvasmar", "root": str(folder), "device": "cpu", "replicas": "1:2"}
    serve.serve.run(serve.app(given), name="named", route_prefix="/named")
    try:
        assert requests.get(f"{ADDRESS}/named/health", timeout=30).json()["status"] == "ok"
        status = serve.serve.status().applications["named"]
        assert status.deployments["Replica"].replica_states == {"RUNNING": 1}
    finally:
        serve.serve.delete("named")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row": "kuka-canvasmar", "replicas": "2:1"}, "--replicas is '2:1'"),
        ({"row": "kuka-canvasmar", "rows": "2"}, "rows"),
        ({}, "row"),
    ],
)
def test_bad_arguments_of_the_application_are_named(folder, given, message):
    from components.foundation.errors import InputError
    from pipeline.commands import serve

    with pytest.raises(InputError, match=message):
        serve.app({"root": str(folder), "device": "cpu"} | given)


@pytest.mark.parametrize(("text", "replicas"), [("1", 1), ("3", 3), ("1:4", (1, 4)), ("2:2", 2)])
def test_replicas_are_a_number_or_the_fewest_and_the_most(text, replicas):
    from pipeline.commands import serve

    assert serve.replicas_of(text) == replicas


@pytest.mark.parametrize("text", ["0", "a", "1:", ":2", "4:1", "1:2:3", "-1", ""])
def test_replicas_that_are_neither_are_refused(text):
    from components.foundation.errors import InputError
    from pipeline.commands import serve

    with pytest.raises(InputError, match="--replicas is"):
        serve.replicas_of(text)


def test_a_row_that_is_not_trained_is_refused_before_anything_starts():
    from components.foundation.errors import InputError
    from pipeline.commands import serve

    with pytest.raises(InputError, match="row 'x' is not trained"):
        serve.start(Path("nowhere"), "x", "cpu", 1, PORT + 1)
