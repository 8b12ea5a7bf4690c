"""The server as its clients meet it: streams, refusals, batches, and a replica that is killed."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
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


def test_a_row_that_is_not_trained_is_refused_before_anything_starts():
    from components.errors import InputError
    from pipeline import serve

    with pytest.raises(InputError, match="no experiment 'x' is trained"):
        serve.start(Path("nowhere"), "x", "cpu", 1, PORT + 1)
