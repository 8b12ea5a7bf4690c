"""Tests of submissions without a cluster; `test_clusters.py` starts one."""

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
import yaml

from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.jobs import lock_transfer, preflight, ray_jobs, submit
from pipeline.jobs.ray_jobs import Jobs
from tests.pipeline.conftest import CANVASMAR, ROOT, environment, run

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PARAMS = presets.read(ROOT / "presets" / "kuka.yaml")


@pytest.mark.parametrize(
    ("target", "stages"),
    [
        (None, ()),
        ("report", ("report",)),
        ("train", ("train",)),
        ("train@kuka-no-canvas", ("train@kuka-no-canvas",)),
        ("kuka-canvasmar", ("evaluate@kuka-canvasmar",)),
    ],
)
def test_a_target_is_a_stage_or_a_row_or_everything(target, stages):
    assert submit.stages_of(target, PIPELINE, PARAMS) == stages


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("trian", "trian is neither a stage nor a row of experiments; the stages are weights, simulate"),
        ("train@kuka", "the stage train has no row kuka; it has kuka-canvasmar, kuka-no-canvas"),
        ("report@kuka", "the stage report has no row kuka; it has none"),
    ],
)
def test_a_target_that_is_neither_is_named_with_those_there_are(target, words):
    with pytest.raises(InputError, match=words):
        submit.stages_of(target, PIPELINE, PARAMS)


def test_the_workers_asked_for_are_those_of_the_recipes_on_the_way():
    params = {
        "recipes": {"a": {"workers": 4}, "b": {"workers": 1}, "vae": {"workers": 2}, "unused": {"workers": 9}},
        "autoencoders": {"v": {"recipe": "vae"}},
        "experiments": {"x": {"recipe": "a", "autoencoder": "v"}, "y": {"recipe": "b", "autoencoder": "v"}},
    }
    assert submit.workers_of((), params) == {"a": 4, "b": 1, "vae": 2}
    assert submit.workers_of(("evaluate@y",), params) == {"b": 1, "vae": 2}
    assert submit.workers_of(("train_vae@v",), params) == {"vae": 2}


def test_a_job_logs_to_the_store_and_the_experiment_of_whoever_submits_it_and_keeps_checkpoints_where_they_say(
    monkeypatch,
):
    job = submit.Submission((), {}, None, None, "python", "http://runs.example.org", 1.0, 0.0)
    assert job.variables()["MLFLOW_TRACKING_URI"] == "http://runs.example.org"
    for name, value in {"MLFLOW_EXPERIMENT_NAME": "anna", "CANVASMAR_STORAGE": "s3://bucket/anna"}.items():
        assert name not in job.variables()
        monkeypatch.setenv(name, value)
        assert job.variables()[name] == value


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / ".gitignore").write_text("data/\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("{}\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "film.mp4").write_bytes(os.urandom(3 * 2**20))
    subprocess.run(("git", "init", "-q", str(tmp_path)), check=True)
    return tmp_path


def test_what_git_ignores_is_not_uploaded_and_every_job_has_a_folder_of_its_own(code):
    first, second = preflight.upload(code, "one"), preflight.upload(code, "two")
    assert set(first.files) == {".gitignore", "params.yaml"}
    assert first.content != second.content
    assert preflight.upload(code, "one").content == first.content


def test_an_upload_that_is_too_large_is_refused_by_its_largest_files(code, monkeypatch):
    monkeypatch.setattr(preflight, "LARGEST_UPLOAD", 2**20)
    (code / ".gitignore").write_text("", encoding="utf-8")
    words = r"upload of the code is 3\.0 MiB, but Ray accepts at most 1\.0 MiB; .* data/film\.mp4 \(3\.0 MiB\)"
    with pytest.raises(InputError, match=words):
        preflight.upload(code, "one")


def test_without_git_nobody_knows_what_is_code(tmp_path):
    with pytest.raises(InputError, match="is not a git repository"):
        preflight.upload(tmp_path, "one")


def test_the_remote_is_the_one_that_goes_along_with_the_code(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match="no DVC remote is set"):
        preflight.remote(tmp_path, None)
    subprocess.run(("git", "init", "-q", str(tmp_path)), check=True)
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = far\n['remote \"far\"']\n    url = s3://far/away\n")
    assert preflight.remote(tmp_path, None) == "far"
    with pytest.raises(InputError, match=r"remote near is not in \.dvc/config, which has far"):
        preflight.remote(tmp_path, "near")


def test_a_cluster_that_is_not_there_is_one_sentence():
    with pytest.raises(InputError, match=r"no Ray cluster answers at http://127\.0\.0\.1:1 .*--address"):
        Jobs("127.0.0.1:1")


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: type[Quiet]) -> Iterator[str]:
    """The address of a server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that says that it is a Ray of long ago, and nothing else."""

    class Old(Quiet):
        def do_GET(self) -> None:
            known = self.path == "/api/version"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"version": "4", "ray_version": "2.9.3", "ray_commit": ""}).encode())

    with serving(Old) as address:
        yield address


def test_another_ray_is_one_sentence(stranger):
    with pytest.raises(InputError, match=r"runs ray 2\.9\.3, but ray 2\.\d+\.\d+ is installed here"):
        Jobs(stranger)
    with pytest.raises(InputError, match="does not answer as a Ray cluster"):
        Jobs(stranger, any_version=True)


@pytest.fixture
def busy() -> Iterator[str]:
    """A server that says that it is this Ray, and that none of its nodes takes jobs."""

    class Busy(Quiet):
        def do_GET(self) -> None:
            known = {
                "/api/version": {"version": "4", "ray_version": ray.__version__, "ray_commit": ""},
                "/api/jobs/": [],
            }
            self.answer(200, json.dumps(known[self.path]))

        def do_POST(self) -> None:
            self.answer(500, "No available agent to submit job, please try again later.")

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    with serving(Busy) as address:
        yield address


def test_a_cluster_whose_nodes_take_no_jobs_is_told_from_a_wrong_address(busy, monkeypatch):
    monkeypatch.setattr(ray_jobs, "AGENT_SECONDS", 0.0)
    jobs = Jobs(busy)
    with pytest.raises(InputError, match=r"answers, but none of its nodes takes jobs; another Ray .* port 52365"):
        jobs.submit("true", job="one", runtime={}, metadata={}, cpus=0, gpus=0)


NODE = {"node": "one", "cpus": 2.0, "gpus": 0.0, "code": "same", "store": "", "versions": preflight.versions()}


def judged(workers: int = 1, uri: str = "http://runs.example.org", **change: object) -> list[str]:
    answer = {"resources": {"CPU": 2.0}, "nodes": [NODE, NODE | change]}
    return list(preflight.check_cluster(answer, code="same", store=uri, workers={"model": workers}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {**NODE["versions"], "ray": "2.9.3"}}, r"the cluster has ray 2\.9\.3, but this machine has"),
        ({"versions": {**NODE["versions"], "python": "3.12.1"}}, r"the cluster has python 3\.12\.1"),
        ({"versions": {**NODE["versions"], "dvc": "missing"}}, "the cluster has dvc missing"),
        ({"code": "other"}, "the project on one has other code"),
        ({"error": "No module named 'pipeline'"}, "put it at the same path on every node"),
        ({"store": "refused"}, r"http://runs\.example\.org cannot be reached from one \(refused\)"),
    ],
)
def test_a_node_that_does_not_fit_is_one_sentence(change, words):
    with pytest.raises(InputError, match=words):
        judged(**change)


def test_more_workers_than_the_cluster_has_are_refused_and_doubts_are_told():
    assert judged() == []
    with pytest.raises(InputError, match=r"recipes\.model\.workers is 3, but the cluster has 2 CPUs and no GPU"):
        judged(workers=3)
    (doubt,) = judged(versions={**NODE["versions"], "mlflow": "3.99.0"})
    assert doubt.startswith("the cluster has mlflow 3.99.0")
    assert "SQLite" in judged(uri="sqlite:////shared/mlruns/mlflow.db")[0]


def test_a_tracking_store_out_of_reach_says_why(stranger, tmp_path):
    assert "refused" in preflight.store_problem("http://127.0.0.1:1")
    assert "refused" in preflight.store_problem("postgresql://ada:secret@127.0.0.1:1/runs")
    assert "not a writable folder" in preflight.store_problem(f"sqlite:///{tmp_path}/none/mlflow.db")
    assert preflight.store_problem(f"http://{stranger}") == ""
    assert preflight.store_problem(f"sqlite:///{tmp_path}/mlflow.db") == ""


def test_a_remote_out_of_reach_says_why_and_one_that_can_be_written_says_nothing(tmp_path):
    run(tmp_path, "dvc", "init", "--quiet", "--no-scm")
    run(tmp_path, "dvc", "remote", "add", "store", str(tmp_path / "store"))
    run(tmp_path, "dvc", "remote", "add", "away", "http://127.0.0.1:1/store")
    assert preflight.remote_problem(tmp_path, "store") == ""
    assert any(path.is_file() for path in (tmp_path / "store").rglob("*"))
    assert preflight.remote_problem(tmp_path, "away")
    assert {path.name for path in tmp_path.iterdir()} == {".dvc", ".dvcignore", "store"}


def entry(path: str, md5: str) -> dict[str, object]:
    return {"cmd": "python", "outs": [{"path": "data/x", "md5": md5}, {"path": path, "md5": "0"}]}


def locked(root: Path, **entries: object) -> Path:
    root.mkdir(exist_ok=True)
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}), encoding="utf-8")
    return root


def test_what_a_job_has_run_comes_home_through_its_log_and_leaves_the_rest(tmp_path):
    there = locked(tmp_path / "there", a=entry("metrics/a.json", "1"), b=entry("metrics/b.json", "1"))
    before = lock_transfer.stages(there)
    locked(there, a=entry("metrics/a.json", "1"), b=entry("metrics/b.json", "2"))
    (there / "metrics").mkdir()
    (there / "metrics" / "b.json").write_text('{"loss": 1}\n', encoding="utf-8")
    lines = lock_transfer.pack(there, before)
    home = locked(tmp_path / "home", a=entry("metrics/a.json", "7"), b=entry("metrics/b.json", "1"))
    log = "\n".join(["Running stage b", *lines, "done"])
    assert lock_transfer.unpack(log, home) == ["b"]
    assert lock_transfer.stages(home) == {"a": entry("metrics/a.json", "7"), "b": entry("metrics/b.json", "2")}
    assert (home / "metrics" / "b.json").read_text(encoding="utf-8") == '{"loss": 1}\n'
    assert list(lock_transfer.visible(log.splitlines())) == ["Running stage b", "done"]
    for broken in (lines[:-1], lines[:-2] + lines[-1:], ["no word"]):
        with pytest.raises(InputError, match="log"):
            lock_transfer.unpack("\n".join(broken), home)


def test_a_log_writes_nowhere_but_into_metrics():
    allowed = ["metrics/train/kuka-canvasmar.json", "metrics/report.json"]
    others = ["metrics/../pipeline/x.json", "metrics/..json/x.json", "metrics/a.py", "/metrics/a.json", "report/a.json"]
    assert [path for path in allowed + others if lock_transfer._is_metrics(path)] == allowed


def test_every_file_for_a_cluster_is_yaml_and_starts_no_ray_without_a_token():
    files = sorted((ROOT / "deploy").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert all(isinstance(part, dict) for part in yaml.safe_load_all(text)), file
        assert "token" in text or "ray" not in text, file


def test_a_wrong_target_leaves_with_status_two(tmp_path):
    words = (*CANVASMAR, "submit", "--address", "127.0.0.1:1", "--list")
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Ray cluster answers at http://127.0.0.1:1")
    assert "Traceback" not in done.stderr
