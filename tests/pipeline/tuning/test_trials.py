"""Searches through Ray Tune with trials that take no time: what fails, what is repeated, what goes on after a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment

pytestmark = pytest.mark.faults

SCRIPT = '''
import functools, os, signal, sys, time
from pathlib import Path
from pipeline.tuning import trials
from pipeline.tuning.ray_tune.schedulers import build_scheduler
import ray
import torch
from pipeline.tuning.ray_tune.searchers import build_searcher
from pipeline.tuning.suggest import Asha, FixedList, LibraryPart, Optuna
from pipeline.tuning.search_space import Choices, Uniform, Integers


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
        yield trials.Report({"step": step, "loss": setting["x"] + 1 / step}, None)

def training(number, setting, shared):
    """A loss that depends on all steps before; it can die once, and goes on from its state."""
    folder, pause, dies = shared
    state = trials.saved_state() or {"step": 0, "weight": torch.zeros(())}
    with (folder / "begun").open("a") as file:
        file.write(f"{number} {state['step']}\\n")
    weight = state["weight"]
    for step in range(state["step"] + 1, 9):
        time.sleep(pause)
        weight = torch.sin(3 * weight + setting["x"] * step)
        now = {"step": step, "weight": weight}
        yield trials.Report({"step": step, "loss": setting["x"] + float(weight) / 100}, lambda: now)
        if step >= 4 and number == 1 and dies != "no":
            died = folder / "died"
            if dies == "always" or not died.exists():
                died.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)

def show(rows):
    for row in rows:
        loss = row.get("square", row.get("loss"))
        print("ROW", row["trial"], loss, row["status"], row.get("step", ""), row.get("x"), flush=True)

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
        scheduled(kind, folder, given)

def scheduled(kind, folder, given):
    space = {"x": Uniform(uniform=(1.0, 6.0))}
    settings = [{"x": float(x)} for x in (1, 2, 3, 4, 5, 6)]
    if kind == "halving":
        asha = build_scheduler(Asha(kind="asha", grace=2, factor=2), "loss", 8, space)
        show(trials.search(steps, settings, None, objectives=["loss"], scheduler=asha, **given))
        return
    options = {
        "pbt": {"perturbation_interval": 2, "quantile_fraction": 0.5, "resample_probability": 0.0},
        "hyperband": {"reduction_factor": 2},
        "median_stopping_rule": {"grace_period": 2, "min_samples_required": 1},
    }
    if kind == "library":
        part = LibraryPart(kind="optuna")
        searcher = build_searcher(part, {"x": 3.5}, {"x": Uniform(uniform=(-4.0, 4.0))}, ["square"], 0, 2)
        kept = folder / "ray_results" / "row"
        show(trials.search(trial, searcher, (folder, 0.0), total=6, objectives=["square"], keep=kept, **given))
    elif kind in options:
        scheduler = build_scheduler(LibraryPart(kind=kind, **options[kind]), "loss", 8, space)
        if kind == "hyperband":  # of the first bracket, four trials, none is stopped
            settings += [{"x": 7.0}, {"x": 8.0}]
        show(trials.search(
            training, settings, (folder, 0.05, "no"), objectives=["loss"], scheduler=scheduler,
            keep=folder / "ray_results" / "row", **given,
        ))
    else:  # trials that are slow, or whose process dies
        pause, dies = 0.7 if kind == "resumed" else 0.0, kind if kind in ("once", "always") else "no"
        show(trials.search(training, settings[:3], (folder, pause, dies), objectives=["loss"], **given))
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
    assert "trial 3 failed: ValueError: three is not liked" in (tmp_path / "out").read_text()
    assert [line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()].count(
        "3"
    ) == 1  # no second attempt
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


def begun(folder: Path) -> list[tuple[int, int]]:
    """Each start of a training, as the number of its trial and the step that it starts after."""
    file = folder / "begun"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(number), int(step)) for number, step in map(str.split, lines)]


def test_a_population_copies_better_trials_and_changes_their_settings(tmp_path: Path) -> None:
    found = rows("pbt", tmp_path)
    assert [row[0] for row in found] == list("012345")
    assert [row[2:4] for row in found] == [["finished", "8"]] * 6
    settings = [float(row[4]) for row in found]
    assert settings != [1, 2, 3, 4, 5, 6]
    assert all(1 <= setting <= 6 for setting in settings)
    assert any(step for _, step in begun(tmp_path))  # a trial went on from another's state
    assert (tmp_path / "ray_results" / "row" / "pbt_global.txt").read_text()


@pytest.mark.parametrize("kind", ["hyperband", "median_stopping_rule"])
def test_schedulers_of_the_library_end_bad_trials_and_the_best_comes_to_its_end(kind: str, tmp_path: Path) -> None:
    found = rows(kind, tmp_path)
    reached = {row[0]: int(row[3]) for row in found}
    assert len(found) == (8 if kind == "hyperband" else 6)
    assert {row[2] for row in found} == {"finished"}
    assert max(reached.values()) == 8
    assert min(reached.values()) < 8
    assert reached["0"] == 8


def test_a_searcher_of_the_library_searches_and_its_kept_folder_opens_with_ray(tmp_path: Path) -> None:
    found = rows("library", tmp_path)
    assert [row[0] for row in found] == list("012345")
    assert found[0][-1] == "3.5"
    kept = tmp_path / "ray_results" / "row"
    assert kept.is_dir()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "search.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("data/ray_results/push-canvasmar", str(kept)).replace('"fvd"', '"square"')
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert str(min(float(row[1]) for row in found))[:8] in finished.stdout


def test_a_trial_whose_process_dies_goes_on_from_its_last_state(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = rows("whole", tmp_path / "whole")
    assert sorted(begun(tmp_path / "whole")) == [(0, 0), (1, 0), (2, 0)]
    found = rows("once", tmp_path)
    assert found == whole
    assert [step for number, step in begun(tmp_path) if number == 1] == [0, 4]


def test_a_trial_whose_process_dies_again_and_again_is_a_failed_row(tmp_path: Path) -> None:
    found = rows("always", tmp_path)
    assert [row[2] for row in found] == ["finished", "failed", "finished"]
    assert [step for number, step in begun(tmp_path) if number == 1] == [0, 4, 5, 6]
    assert "a process of Ray died" in (tmp_path / "out").read_text()


def test_a_killed_search_resumes_a_half_trained_trial_with_equal_losses(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = rows("whole", tmp_path / "whole")
    first = start("resumed", tmp_path)
    deadline = time.monotonic() + 300
    while not begun(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)  # 5 of 8 steps; Tune writes its notes every other second
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = begun(tmp_path)
    assert rows("resumed", tmp_path) == whole
    again = begun(tmp_path)[len(before) :]
    assert any(step > 1 for _, step in again)


def ran(folder: Path) -> list[str]:
    file = folder / "ran"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
