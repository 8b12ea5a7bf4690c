import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.foundation.config import Config
from components.foundation.errors import InputError
from pipeline.runtime.stage import TABLES, exclusive, plural, resolve, run, settings_of
from tests.pipeline.conftest import CANVASMAR

ROOT = Path(__file__).parents[3]
ROW = {
    "dataset": "d", "scored_on": "d", "autoencoder": "a", "model": "m", "recipe": "r", "start": "w",
    "sampler": "s", "search": "q", "protocol": "p",
}  # fmt: skip
TABLES_OF_ROW: dict[str, Any] = {
    "datasets": {"d": {"side": 8}},
    "autoencoders": {"a": {"dataset": "d", "recipe": "r", "side": 4}},
    "models": {"m": {"side": 2}, "other": {"side": 3}},
    "recipes": {"r": {"side": 5}},
    "searches": {"q": {"side": 6}},
    "experiments": {"row": ROW},
}


class Nothing(Config):
    pass


class Side(Config):
    side: int


class Autoencoder(Config):
    dataset: str
    recipe: str
    side: int


class Training(Config):
    model: Side
    recipe: Side


class Vae(Config):
    autoencoder: Autoencoder
    recipe: Side


class Everything(Config):
    models: dict[str, Side]


class Searching(Config):
    search: Side


def endless(params: Nothing, *, out: Path) -> dict[str, float]:
    """Write a file; equal clips have an infinite PSNR."""
    (out / "made").touch()
    return {"psnr": math.inf, "loss": math.nan, "seconds": 1.5}


def test_metrics_that_are_not_finite_are_null_in_the_metrics_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["endless", "--out", "made"])
    run(endless, rows=None)
    (file,) = (tmp_path / "metrics").glob("*/*.json")
    assert json.loads(file.read_text()) == {"psnr": None, "loss": None, "seconds": 1.5}


def test_dvc_gets_the_headlines_and_the_usage_file_all_metrics(tmp_path, monkeypatch) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["endless", "--out", "made"])
    run(endless, rows=None, headlines=("seconds", "fvd"))
    (shown,) = (tmp_path / "metrics").glob("*/*.json")
    (used,) = (tmp_path / "data" / "usage").glob("*/*.json")
    assert json.loads(shown.read_text()) == {"seconds": 1.5}
    assert json.loads(used.read_text())["metrics"] == {"psnr": None, "loss": None, "seconds": 1.5}


def test_a_field_is_the_entry_that_the_row_names() -> None:
    params = resolve(Training, TABLES_OF_ROW, "experiments", "row")
    assert params == Training(model=Side(side=2), recipe=Side(side=5))


def test_a_field_of_the_rows_own_table_is_the_row_and_names_the_others() -> None:
    params = resolve(Vae, TABLES_OF_ROW, "autoencoders", "a")
    assert params.autoencoder.side == 4
    assert params.recipe.side == 5


def test_a_field_named_like_a_table_is_the_table() -> None:
    params = resolve(Everything, TABLES_OF_ROW, None, None)
    assert params.models == {"m": Side(side=2), "other": Side(side=3)}


def test_the_table_of_a_field_is_its_plural() -> None:
    assert resolve(Searching, TABLES_OF_ROW, "experiments", "row").search.side == 6
    assert {
        plural(field) for field in (*(ROW.keys() - {"scored_on", "start"}), "simulation", "experiment", "ablation")
    } == set(TABLES)


def test_a_row_is_trained_with_the_settings_of_its_entries_and_a_missing_one_is_no_error() -> None:
    found = settings_of(TABLES_OF_ROW, "row")
    autoencoder = {"autoencoder.dataset": "d", "autoencoder.recipe": "r", "autoencoder.side": 4}
    assert found == {"dataset.side": 8, **autoencoder, "model.side": 2, "recipe.side": 5}
    assert "model.side" not in settings_of({**TABLES_OF_ROW, "models": {}}, "row")


def test_a_field_is_not_touched_by_what_another_row_uses() -> None:
    changed = {**TABLES_OF_ROW, "models": {**TABLES_OF_ROW["models"], "other": "nonsense"}}
    assert resolve(Training, changed, "experiments", "row") == resolve(Training, TABLES_OF_ROW, "experiments", "row")


@pytest.mark.parametrize(
    ("change", "row", "words"),
    [
        ({"model": {}}, "row", "params.yaml: unknown table model; the tables are simulations, datasets"),
        ({}, "none", "params.yaml: experiments has no entry 'none'; it has row"),
        ({"models": {}}, "row", "params.yaml: experiments.row.model: models has no entry 'm'; it has nothing"),
        ({"models": None}, "row", "params.yaml: the table models is missing; add it"),
        ({"models": {"m": {"side": "2"}}}, "row", "params.yaml: experiments.row: model.side is '2'"),
        ({"models": {"m": {"sid": 2}}}, "row", "unknown key model.sid"),
        ({"models": {"m": None}}, "row", "model is None"),
        ({"experiments": {"row": {**ROW, "sampler": 3}}}, "row", "params.yaml: experiments.row: sampler is 3"),
        ({"experiments": {"row": {"model": "m"}}}, "row", "missing key recipe"),
        ({"experiments": {"row": {**ROW, "colour": "red"}}}, "row", "unknown key colour"),
    ],
)
def test_what_cannot_be_resolved_is_named_with_its_place(change: dict[str, Any], row: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(Training, TABLES_OF_ROW | change, "experiments", row)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named_where_all_of_it_is_asked_for() -> None:
    with pytest.raises(InputError, match="the table models is missing"):
        resolve(Everything, {"experiments": {}}, None, None)


def test_a_row_that_is_no_mapping_is_named() -> None:
    with pytest.raises(InputError, match=r"autoencoders\.a"):
        resolve(Vae, TABLES_OF_ROW | {"autoencoders": {"a": None}}, "autoencoders", "a")


SCRIPT = '''
from pathlib import Path

from components.foundation.config import Config
from components.foundation.errors import InputError
from pipeline.runtime import stage


class Model(Config):
    side: int


class Params(Config):
    model: Model


def main(params: Params, *, clips: Path, out: Path) -> dict[str, float]:
    """Counts the clips."""
    (out / "made").write_text(str(len(list(clips.iterdir()))))
    if (clips / "fail").exists():
        raise InputError("the clips are no use; bring others")
    return {"clips": float(len(list(clips.iterdir()))), "side": float(params.model.side)}


if __name__ == "__main__":
    stage.run(main, rows="experiments")
    Path("clips", "fail").touch()
    stage.run(main, rows="experiments")
'''

WAITING = """
import time
from contextlib import nullcontext

from pipeline.runtime import stage

with stage.command() as root:
    {imported}
    with {surroundings}:
        try:
            print("waiting", flush=True)
            time.sleep(60)
        finally:
            print("closed", flush=True)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A project of one stage, `count`."""
    (tmp_path / "count.py").write_text(SCRIPT, encoding="utf-8")
    row = "{" + ", ".join(f"{key}: {value}" for key, value in ROW.items()) + "}"
    (tmp_path / "params.yaml").write_text(
        f"models: {{m: {{side: 2}}}}\nexperiments: {{row: {row}}}\n", encoding="utf-8"
    )
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a").touch()
    (tmp_path / "mlruns").mkdir()
    return tmp_path


def start(here: Path, *words: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(here), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "count.py", *words],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


GOOD = ("--row", "row", "--clips", "clips", "--out", "out")


def test_a_stage_writes_its_folder_and_its_metrics_and_a_failed_one_leaves_them(here: Path) -> None:
    status, out, err = finish(start(here, *GOOD))
    assert out.count("count@row: begins") == 2
    assert out.count("count@row: done in") == 1
    assert status == 2
    assert err.strip().splitlines()[-1] == "error: the clips are no use; bring others"
    assert "Traceback" not in err
    assert (here / "out" / "made").read_text(encoding="utf-8") == "1"
    written = (here / "metrics" / "count" / "row.json").read_text(encoding="utf-8")
    assert written == '{\n  "clips": 1.0,\n  "side": 2.0\n}\n'
    used = json.loads((here / "data" / "usage" / "count" / "row.json").read_text(encoding="utf-8"))
    run = json.loads((here / "out.provenance.json").read_text(encoding="utf-8"))["run"]
    assert (used["stage"], used["row"], used["run"]) == ("count", "row", run)
    assert {"seconds", "cpu_hours", "gpu_hours", "peak_memory_mib", "ended"} <= used.keys()


def test_what_a_stage_made_is_followed_back_to_its_inputs_and_a_change_is_named(here: Path) -> None:
    finish(start(here, *GOOD))
    made = json.loads((here / "out.provenance.json").read_text(encoding="utf-8"))
    assert made["stage"] == "count@row"
    assert made["params"] == {"model.side": 2}
    assert made["inputs"].keys() == made["sources"].keys() == {"clips"}
    (here / "clips" / "fail").unlink()
    status, told, _ = finish(verify(here, "out"))
    assert status == 0
    assert f"out: count@row, no commit, {made['ended']}, MLflow run {made['run']}" in told
    assert "1 folders, no mismatches" in told
    (here / "out" / "made").write_text("2", encoding="utf-8")
    (here / "clips" / "a").rename(here / "clips" / "b")
    status, _, err = finish(verify(here, "out"))
    assert status == 1
    assert err.splitlines() == [
        "mismatch: out has changed files: made",
        "mismatch: clips lacks the recorded files: a",
        "mismatch: clips has additional files: b",
    ]


def verify(here: Path, path: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(here), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen((*CANVASMAR, "verify", path), cwd=here, env=environment, stdout=-1, stderr=-1, text=True)


@pytest.mark.parametrize(
    ("imported", "surroundings"),
    [("pass", "nullcontext()"), ("from pipeline.runtime import cluster", "cluster.connect(root)")],
    ids=["alone", "on Ray"],
)
def test_a_command_that_is_told_to_stop_closes_what_is_open_and_leaves_with_130(
    here: Path, imported: str, surroundings: str
) -> None:
    (here / "count.py").write_text(WAITING.format(imported=imported, surroundings=surroundings), encoding="utf-8")
    process = start(here)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 130
    assert out == "closed\n"
    assert "interrupted" in err
    assert "Traceback" not in err


def fail(here: Path, line: str) -> subprocess.CompletedProcess[str]:
    script = f"import errno\nfrom pipeline.runtime import stage\nwith stage.command():\n    {line}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(here), "PYTHONPATH": str(ROOT)}
    return subprocess.run((sys.executable, "-c", script), cwd=here, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("kind", "told"), [("ENOSPC", "the disk is full"), ("EROFS", "the disk is read-only")])
def test_a_disk_that_takes_nothing_more_is_told_in_a_sentence(here: Path, kind: str, told: str) -> None:
    done = fail(here, f"raise OSError(errno.{kind}, 'no', 'a/b')")
    assert done.returncode == 2
    assert f"error: {told}" in done.stderr
    assert "(a/b)" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_ends_the_command_in_a_sentence(here: Path) -> None:
    done = fail(here, "raise BrokenPipeError(32, 'Broken pipe')")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the program that reads this output has ended; finished work")
    assert "Traceback" not in done.stderr


def test_an_error_of_the_system_that_is_no_full_disk_keeps_its_traceback(here: Path) -> None:
    done = fail(here, "open('nowhere')")
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--row", "row", "--clips", "nowhere", "--out", "out"), "error: count@row: --clips nowhere does not exist"),
        (("--row", "none", "--clips", "clips", "--out", "out"), "error: params.yaml: experiments has no entry 'none'"),
        ((*GOOD, "--params", "other.yaml"), "error: other.yaml does not exist"),
        (("--row", "row", "--out", "out"), "the following arguments are required: --clips"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_status_two(here: Path, words: tuple[str, ...], told: str) -> None:
    status, _, err = finish(start(here, *words))
    assert status == 2
    assert told in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not (here / "out").exists()


def test_the_command_line_is_read_off_the_signature(here: Path) -> None:
    status, out, _ = finish(start(here, "--help"))
    assert status == 0
    assert "python -m pipeline.count" in out
    assert "Counts the clips." in out
    for word in ("--row NAME", "--params FILE", "--clips PATH", "--out PATH"):
        assert word in out


def test_a_second_run_of_a_row_is_told_who_is_first_and_comes_in_after_it(tmp_path):
    lock = tmp_path / "locks" / "train@row.lock"
    with exclusive(lock, "train@row"):
        words = f"train@row is already being run by process {os.getpid()}; wait for it to end"
        with pytest.raises(InputError, match=words), exclusive(lock, "train@row"):
            pass
    with exclusive(lock, "train@row"):
        pass
