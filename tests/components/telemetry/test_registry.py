"""A registered model is loaded and asked from anywhere, with code and weights of its own and without a pickle."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from components.telemetry import registry, tracking
from tests.pipeline.conftest import ROOT, environment, free_port
from tests.pipeline.parts import tables, write_models

ASK = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/canvasmar-test@current")
video = np.random.default_rng(0).integers(0, 255, (2, 1, 3, 32, 32)).astype(np.uint8)
first, again, other = (model.predict(video, params={"frames": 4, "seed": seed}) for seed in (0, 0, 1))
assert first.shape == (2, 5, 3, 32, 32) and first.dtype == np.uint8, (first.shape, first.dtype)
assert (first == again).all() and (first[:, 1:] != other[:, 1:]).any() and (first[:, 0] == other[:, 0]).mean() > 0.5
import components.sampling.predictor
print("CODE", components.sampling.predictor.__file__)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of runs in tmp_path that holds two versions of a tiny model."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_models(tmp_path, 11)
    (tmp_path / "best.json").write_text('{"sampler": ' + str(tables()["samplers"]["default"]).replace("'", '"') + "}")
    parts = {"model": tmp_path / "model", "autoencoder": tmp_path / "vae", "sampler": tmp_path / "best.json"}
    with tracking.run("evaluate", root=tmp_path, tags={}, parameters={"sampler.sets": 4}) as run:
        run.dataset("clips", "data/clips", "abc", "clips")
        for number in (1, 2):
            version = registry.register(
                run, "test", ROOT / "pipeline" / "commands" / "mlflow_model.py",
                code=[ROOT / "components", ROOT / "pipeline"], parts=parts, shape=(3, 32, 32), data="clips",
                choices={"frames": 16, "seed": 0}, tags={"row": "test"},
            )  # fmt: skip
            assert version == str(number)
            run.scores({"fvd": 500.0 / number})
    return tracking.uri(tmp_path)


def model_of(client: MlflowClient, version: int) -> Any:
    """The logged model of a version of the registered model."""
    source = client.get_model_version("canvasmar-test", str(version)).source  # `model_id` is empty in a SQL store
    return client.get_logged_model(source.removeprefix("models:/"))


def test_versions_can_be_ranked_by_fvd_which_hangs_on_their_logged_models_with_its_data_set(store: str) -> None:
    client = MlflowClient(store)
    ranked = client.search_logged_models(["1"], order_by=[{"field_name": "metrics.fvd", "ascending": True}])
    assert [model.model_id for model in ranked] == [model_of(client, version).model_id for version in (2, 1)]
    (score,) = ranked[0].metrics
    assert (score.key, score.value, score.dataset_name, score.dataset_digest) == ("fvd", 250.0, "clips", "abc")
    assert (ranked[0].status, ranked[0].params) == ("READY", {"sampler.sets": "4"})


def test_an_experiment_of_dvc_registers_a_version_and_leaves_the_alias(store: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "ebon-mold")
    parts = {"model": tmp_path / "model"}
    with tracking.run("evaluate", root=tmp_path, tags={}, parameters={}) as run:
        version = registry.register(
            run, "test", ROOT / "pipeline" / "commands" / "mlflow_model.py", data="clips", code=[], parts=parts,
            shape=(3, 8, 8), choices={}, tags={},
        )  # fmt: skip
    client = MlflowClient(store)
    assert version == "3"
    assert int(client.get_model_version_by_alias("canvasmar-test", registry.ALIAS).version) == 2
    assert client.get_model_version("canvasmar-test", "3").tags == {"dvc_experiment": "ebon-mold"}


def test_a_registered_model_continues_a_video_of_numpy_wherever_it_is_loaded(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    assert int(client.get_model_version_by_alias("canvasmar-test", registry.ALIAS).version) == 2
    served = tmp_path / "mlruns" / "artifacts" / "models" / model_of(client, 2).model_id / "artifacts"
    assert "tensor" in (served / "MLmodel").read_text()
    assert not [path for path in served.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".pickle", ".bin")]
    variables = environment() | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    words = [sys.executable, "-c", ASK, store]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (code,) = [line for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert "/code/" in code
    assert str(ROOT) not in code


def test_mlflow_serves_a_registered_model_to_whoever_asks_on_loopback(store: str, tmp_path: Path) -> None:
    port = free_port()
    words = ("models", "serve", "-m", "models:/canvasmar-test@current", "--env-manager", "local")
    server = subprocess.Popen(
        (sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port)),
        cwd=tmp_path, env=environment() | {"MLFLOW_TRACKING_URI": store}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ask(path: str, content: dict[str, Any] | None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()

    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and server.poll() is None:
            with suppress(OSError):
                ask("/ping", None)
                break
            time.sleep(0.5)
        video = np.random.default_rng(0).integers(0, 255, (1, 1, 3, 32, 32))
        given = {"inputs": video.tolist(), "params": {"frames": 4, "seed": 3}}
        first, again = (np.array(json.loads(ask("/invocations", given))["predictions"]) for _ in range(2))
        assert first.shape == (1, 5, 3, 32, 32)
        assert (first == again).all()
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask("/invocations", {"inputs": video[..., 0].tolist()})
        assert refused.value.code == 400
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_store_that_cannot_keep_a_model_warns_and_stops_nothing(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.run("evaluate", root=tmp_path, tags={}, parameters={}) as run:
        version = registry.register(
            run, "test", tmp_path / "none.py", data="clips", code=[], parts={}, shape=(3, 8, 8), choices={}, tags={}
        )
    assert version is None
    assert f"the model test of run {run.id} cannot be logged" in caplog.text
