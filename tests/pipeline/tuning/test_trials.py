"""Searches through Ray Tune with trials that take no time: what fails, what is repeated, what goes on after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment

pytestmark = pytest.mark.faults

SCRIPT = '''
import functools, os, sys, time
from pathlib import Path
from pipeline.tuning import trials
import ray
from pipeline.tuning.suggest import Asha, Optuna
from pipeline.tuning.search_space import Uniform, Integers


def trial(number, setting, shared):
    """x squared; three fails."""
    folder, pause = shared
    process = loaded(str(folder))
    time.sleep(pause)
    with (folder / "ran").open("a") as file:
        file.write(f"{setting['x']} {os.getpid()}\\n")
    if setting["x"] == 3:
        raise ValueError("three is not liked")
    return {"square": float(setting["x"]) ** 2, "process": process}

@functools.lru_cache
def loaded(folder):
    with (Path(folder) / "loaded").open("a") as file:
        file.write("once\\n")
    return os.getpid()

def steps(number, setting, shared):
    for step in range(1, 9):
        yield {"step": step, "loss": setting["x"] + 1 / step}

def show(rows):
    for row in rows:
        print("ROW", row["trial"], row.get("square", row.get("loss")), row["status"], row.get("step", ""), flush=True)

def main(kind, folder):
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    given = dict(storage=folder / "state", name=kind, concurrent=2, label="trials")
    if kind == "listed":
        show(trials.search(trial, [{"x": x} for x in range(6)], (folder, 0.0), **given))
    elif kind == "slow":
        show(trials.search(trial, [{"x": x} for x in (0, 1, 2, 4, 5, 6)], (folder, 5.0), **given))
    elif kind == "optuna":
        for _ in range(2):
            space = {"x": Uniform(uniform=(-4.0, 4.0))}
            suggester = Optuna({"x": 3.5}, space, 1, trials=7, round_size=2, seed=0)
            show(trials.search(trial, suggester, (folder, 0.0), total=7, objectives=["square"], **given))
    else:
        stopper = Asha(kind="asha", grace=2, factor=2)
        settings = [{"x": x} for x in (1, 2, 3, 4, 5, 6)]
        show(trials.search(steps, settings, None, objectives=["loss"], stopper=stopper, steps=8, **given))
'''
RUN = "import sys, pathlib, searching; searching.main(sys.argv[1], pathlib.Path(sys.argv[2]))"


def start(kind: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "searching.py").write_text(SCRIPT, encoding="utf-8")
    words = [sys.executable, "-c", RUN, kind, str(folder)]
    variables = environment() | {"PYTHONPATH": f"{ROOT}:{folder}"}
    out = (folder / "out").open("w")
    return subprocess.Popen(words, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT, text=True)


def rows(kind: str, folder: Path) -> list[list[str]]:
    assert start(kind, folder).wait(timeout=600) == 0, (folder / "out").read_text()
    return [line.split()[1:] for line in (folder / "out").read_text().splitlines() if line.startswith("ROW")]


def test_a_trial_that_fails_is_a_failed_trial_and_what_a_process_has_loaded_serves_the_next(tmp_path: Path) -> None:
    found = rows("listed", tmp_path)
    assert [row[2] for row in found] == ["finished"] * 3 + ["failed"] + ["finished"] * 2
    assert [row[1] for row in found if row[2] == "finished"] == ["0.0", "1.0", "4.0", "16.0", "25.0"]
    assert "trial 3 failed" in (tmp_path / "out").read_text()
    assert "three is not liked" in (tmp_path / "out").read_text()
    assert len((tmp_path / "loaded").read_text().splitlines()) <= 3  # two processes, and one after the failure
    assert not (tmp_path / "state" / "listed").exists()


def test_optuna_gives_the_same_table_twice(tmp_path: Path) -> None:
    found = rows("optuna", tmp_path)
    assert len(found) == 14
    assert found[:7] == found[7:]
    assert min(float(row[1]) for row in found) < 3.5**2


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    first = start("slow", tmp_path)
    deadline = time.monotonic() + 300
    while len(ran(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)  # Tune writes its notes every other second
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = ran(tmp_path)
    assert 3 <= len(before) < 6
    found = rows("slow", tmp_path)
    assert [row[1] for row in found] == ["0.0", "1.0", "4.0", "16.0", "25.0", "36.0"]
    again = ran(tmp_path)[len(before) :]
    assert len(again) < 6
    assert {*before, *again} == {"0", "1", "2", "4", "5", "6"}
    assert not {*before[:2]} & {*again}


def test_a_killed_search_whose_state_is_damaged_starts_again(tmp_path: Path) -> None:
    first, state = start("slow", tmp_path), tmp_path / "state" / "slow"
    deadline = time.monotonic() + 300
    while not (ran(tmp_path) and list(state.glob("experiment_state-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (notes,) = state.glob("experiment_state-*")
    notes.write_bytes(notes.read_bytes()[:20])
    found = rows("slow", tmp_path)  # of notes that it cannot read, Tune alone would make a search of one trial
    assert [row[1] for row in found] == ["0.0", "1.0", "4.0", "16.0", "25.0", "36.0"]
    assert "is damaged" in (tmp_path / "out").read_text()


def test_halving_ends_the_worse_trials_early_and_the_best_comes_to_its_end(tmp_path: Path) -> None:
    found = rows("halving", tmp_path)
    reached = [int(row[3]) for row in found]
    assert reached[0] == 8
    assert min(reached) == 2
    assert all(row[2] == "finished" for row in found)


def ran(folder: Path) -> list[str]:
    file = folder / "ran"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
