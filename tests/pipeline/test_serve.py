"""The server as its clients meet it: streams, refusals, batches, and a replica that is killed."""

import asyncio
import base64
import contextlib
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import torch
from PIL import Image

from pipeline.video_predictor import VideoPredictor
from tests.pipeline.untrained import build

pytestmark = pytest.mark.slow
PORT = 8947
ADDRESS = f"http://127.0.0.1:{PORT}"
MP4 = {"content-type": "video/mp4"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from pipeline import serve  # before Ray, which reads its settings when it is imported

    ray = serve.ray
    folder = build(tmp_path_factory.mktemp("served"))
    ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20, num_cpus=2, log_to_driver=False)
    try:
        serve.start(folder, "kuka-canvasmar", "cpu", 2, PORT)
        yield folder
    finally:
        serve.serve.shutdown()
        ray.shutdown()


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
    video = served / "videos" / "one.mp4"
    body = video.read_bytes()
    questions = [{"seed": seed, "frames": 4, "context": context} for seed in range(4) for context in (1, 4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: ask(body, **question), questions))
    predictor = VideoPredictor.open(served, "kuka-canvasmar", "cpu")
    for question, lines in zip(questions, answers, strict=True):
        kinds = [line["kind"] for line in lines]
        assert kinds == ["canvas", "canvas", "frame", "frame"] * 2 + ["end"]
        given = predictor.prepare(video, context=question["context"])
        steps = list(predictor.stream(given, frames=4, seed=question["seed"]))
        for kind in ("canvas", "frame"):
            truth = torch.cat([getattr(step, kind) for step in steps]).int()
            assert (pictures(lines, kind).int() - truth).abs().max() <= 1  # another batch rounds sums otherwise


def test_a_hundred_malformed_requests_are_refused_each_with_its_sentence(served):
    whole = (served / "videos" / "one.mp4").read_bytes()
    chance = np.random.default_rng(0)
    bodies = [b"", b"text", whole[:200], whole[: len(whole) // 2], b"\0" * 21 * 2**20]
    bodies += [chance.bytes(int(size)) for size in chance.integers(1, 4000, 45)]
    queries = [{"frames": 0}, {"frames": 65}, {"frames": "x"}, {"seed": -1}, {"context": 21}, {"steps": 1}]
    queries += [{"frames": "[1"}, {"frames": "1.5"}, {"seed": "null"}, {"context": ""}]
    bad = [("POST", "/predict", {"data": body, "headers": MP4}) for body in bodies]
    bad += [("POST", "/predict", {"data": whole, "headers": MP4, "params": query}) for query in queries * 3]
    bad += [("POST", "/predict", {"data": whole, "headers": {"content-type": "text/html"}})] * 5
    bad += [(method, path, {}) for method in ("GET", "PUT", "DELETE") for path in ("/predict", "/x", "/x/../y")]
    bad += [("POST", "/health", {}), ("POST", "/metrics", {}), ("POST", "/", {"data": whole})] * 2
    assert len(bad) == 100

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


def test_a_request_whose_replica_is_killed_while_it_answers_has_the_same_answer(served):
    body = (served / "videos" / "one.mp4").read_bytes()
    question = {"seed": 5, "frames": 64}
    undisturbed = [line | {"seconds": 0} for line in ask(body, **question)]
    replicas = [one for one in psutil.process_iter() if "ServeReplica:canvasmar:Replica" in " ".join(cmdline(one))]
    assert len(replicas) == 2
    worked = {one.pid: sum(one.cpu_times()[:2]) for one in replicas}
    answer = requests.post(f"{ADDRESS}/predict", data=body, params=question, headers=MP4, timeout=100, stream=True)
    lines = answer.iter_lines()
    given = [next(lines) for _ in range(4)]  # it has begun
    max(replicas, key=lambda one: sum(one.cpu_times()[:2]) - worked[one.pid]).kill()
    found = [json.loads(line) | {"seconds": 0} for line in (*given, *lines)]
    assert found == undisturbed
    assert sum(one.is_running() for one in replicas) == 1


def cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it may end while it is looked at
        return process.cmdline()
    return []


def test_more_requests_than_can_wait_are_turned_away_and_all_others_answered(served):
    from pipeline import serve

    body, many = (served / "videos" / "one.mp4").read_bytes(), serve.QUEUE + 16

    def one(seed: int) -> tuple[int, str]:
        question = {"seed": seed, "frames": 16}
        answer = requests.post(f"{ADDRESS}/predict", data=body, params=question, headers=MP4, timeout=200)
        return answer.status_code, answer.text.splitlines()[-1]

    with ThreadPoolExecutor(many) as pool:
        answers = list(pool.map(one, range(many)))
    assert {status for status, _ in answers} == {200, 503}
    assert all(json.loads(last)["kind"] == "end" for status, last in answers if status == 200)
    assert all("try again in a few seconds" in json.loads(last)["error"] for status, last in answers if status == 503)


def test_a_body_or_an_answer_that_takes_too_long_is_ended_with_its_sentence(served, monkeypatch):
    from pipeline import serve

    monkeypatch.setattr(serve, "BODY_SECONDS", 0.1)
    monkeypatch.setattr(serve, "ANSWER_SECONDS", 0.01)
    gate = serve.Gate(serve.serve.get_deployment_handle("Replica", "canvasmar"))

    async def dribble() -> dict:
        await asyncio.sleep(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def both() -> None:
        request = serve.Request({"type": "http", "method": "POST", "headers": []}, dribble)
        with pytest.raises(serve.RefusedError, match="took longer than 0 s to arrive") as slow:
            await gate.read(request, serve.USUAL)
        assert slow.value.status == 408
        frames = np.zeros((1, 3, 32, 32), dtype=np.uint8)
        with pytest.raises(serve.RefusedError, match="the answer took longer than 0 s; ask for fewer frames") as late:
            await anext(gate.lines(frames, serve.USUAL | {"frames": 64}))
        assert late.value.status == 504

    asyncio.run(both())


def test_a_row_that_is_not_trained_is_refused_before_anything_starts():
    from components.errors import InputError
    from pipeline import serve

    with pytest.raises(InputError, match="no experiment 'x' is trained"):
        serve.start(Path("nowhere"), "x", "cpu", 1, PORT + 1)
