"""A registered model is loaded and asked from anywhere, with code and weights of its own and without a pickle."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components import registry, tracking
from tests.pipeline.conftest import ROOT, environment
from tests.pipeline.parts import tables, write_models

pytestmark = pytest.mark.slow

ASK = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/canvasmar-test@current")
video = np.random.default_rng(0).integers(0, 255, (2, 1, 3, 32, 32)).astype(np.uint8)
first, again, other = (model.predict(video, params={"frames": 4, "seed": seed}) for seed in (0, 0, 1))
assert first.shape == (2, 5, 3, 32, 32) and first.dtype == np.uint8, (first.shape, first.dtype)
assert (first == again).all() and (first[:, 1:] != other[:, 1:]).any() and (first[:, 0] == other[:, 0]).mean() > 0.5
import pipeline.predictor
print("CODE", pipeline.predictor.__file__)
"""


def test_a_registered_model_continues_a_video_of_numpy_wherever_it_is_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_models(tmp_path, 11)
    (tmp_path / "best.json").write_text('{"sampler": ' + str(tables()["samplers"]["default"]).replace("'", '"') + "}")
    parts = {"model": tmp_path / "model", "autoencoder": tmp_path / "vae", "sampler": tmp_path / "best.json"}
    with tracking.run("evaluate", root=tmp_path, tags={}, parameters={}) as run:
        for number in (1, 2):
            version = registry.register(
                run, "canvasmar-test", ROOT / "pipeline" / "served.py",
                code=[ROOT / "components", ROOT / "pipeline"], parts=parts, shape=(3, 32, 32),
                choices={"frames": 16, "seed": 0}, tags={"row": "test"},
            )  # fmt: skip
            assert version == str(number)
    client = MlflowClient(tracking.uri(tmp_path))
    assert int(client.get_model_version_by_alias("canvasmar-test", registry.ALIAS).version) == 2
    served = tmp_path / "mlruns" / "artifacts" / run.id / "artifacts" / "served"
    assert "tensor" in (served / "MLmodel").read_text()
    assert not [path for path in served.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".pickle", ".bin")]
    variables = environment() | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    words = [sys.executable, "-c", ASK, tracking.uri(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (code,) = [line for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert "code/pipeline" in code
    assert str(ROOT) not in code


def test_a_store_that_cannot_keep_a_model_warns_and_stops_nothing(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.run("evaluate", root=tmp_path, tags={}, parameters={}) as run:
        version = registry.register(
            run, "canvasmar-test", tmp_path / "none.py", code=[], parts={}, shape=(3, 8, 8), choices={}, tags={}
        )
    assert version is None
    assert "the model canvasmar-test cannot be registered" in caplog.text
