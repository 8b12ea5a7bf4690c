import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.training.checkpoints import CheckpointManager
from components.training.storage import Storage

ROOT = Path(__file__).parents[3]
IDENTITY = {"params": "abc", "latents": "def"}


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"w": torch.full((64,), float(step))}}


def at(folder: Path) -> Storage:
    return Storage.at(str(folder.parent), folder.name)


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint_")) for path in folder.iterdir())


def fill(folder: Path, losses: dict[int, float | None]) -> None:
    manager = CheckpointManager(at(folder), IDENTITY, {"commit": "123"})
    for step, loss in losses.items():
        manager.prepare(step, state(step), {} if loss is None else {"validation_loss": loss}).write()


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = CheckpointManager(at(folder), IDENTITY, {}).newest(warnings.append)
    return None if found is None else found[1]["step"], warnings


def test_a_checkpoint_says_what_it_belongs_to(tmp_path: Path) -> None:
    fill(tmp_path, {10: 0.5})
    facts = json.loads((tmp_path / "checkpoint_000000010" / checkpoint.FACTS).read_text(encoding="utf-8"))
    assert {**IDENTITY, "commit": "123", "step": 10, "validation_loss": 0.5}.items() <= facts.items()


def test_a_training_that_has_just_begun_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert newest(tmp_path / "new") == (None, [])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip, checkpoint.STATE),
        (truncate, checkpoint.STATE),
        (Path.unlink, checkpoint.STATE),
        (truncate, checkpoint.FACTS),
        (Path.unlink, checkpoint.FACTS),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, damage: Any, file: str) -> None:
    fill(tmp_path, {10: 0.5, 20: 0.4})
    damage(tmp_path / "checkpoint_000000020" / file)
    step, (warning,) = newest(tmp_path)
    assert step == 10
    assert "checkpoint_000000020 is " in warning
    assert "using the previous checkpoint instead" in warning


def test_after_a_damaged_checkpoint_the_next_ones_are_written_and_kept_as_ever(tmp_path: Path) -> None:
    fill(tmp_path, {10: 0.5, 20: 0.4})
    (tmp_path / "checkpoint_000000020" / checkpoint.FACTS).unlink()
    fill(tmp_path, {20: 0.4, 30: 0.6})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_000000010",
        "checkpoint_000000020",  # Ray Train will delete the path of the damaged one
        "checkpoint_000000020_2",
        "checkpoint_000000030",
    ]
    assert newest(tmp_path) == (30, [])


def test_a_checkpoint_of_another_training_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    fill(tmp_path, {10: 0.5})
    manager = CheckpointManager(at(tmp_path), IDENTITY | {"params": "xyz"}, {})
    with pytest.raises(InputError, match="another run"):
        manager.newest(print)


def test_waiting_ends_when_the_last_checkpoint_is_written_or_has_failed(tmp_path: Path) -> None:
    manager = CheckpointManager(at(tmp_path), IDENTITY, {})
    manager.wait()
    for step, content, error in ((10, lambda: 10, (AttributeError, TypeError)), (20, 20, ())):
        pending = manager.prepare(step, {"step": content}, {})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(manager.wait)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            with pytest.raises(error) if error else nullcontext():
                pending.write()
            waiting.result(timeout=10)
    assert kept(tmp_path) == [20]


def test_the_files_of_ray_train_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    fill(tmp_path, {10: 0.5})
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}", encoding="utf-8")
    assert newest(tmp_path) == (10, [])


WRITER = """
import sys, torch
from components.training.checkpoints import CheckpointManager
from components.training.storage import Storage
manager = CheckpointManager(Storage.at(sys.argv[1], "run"), {"params": "abc", "latents": "def"}, {})
manager.prepare(10, {"step": 10}, {}).write()
manager.prepare(20, {"step": 20, "model": torch.zeros(50_000_000)}, {}).write()
"""


def test_killed_while_it_writes_a_checkpoint_the_one_before_it_is_whole(tmp_path: Path) -> None:
    process = subprocess.Popen((sys.executable, "-c", WRITER, str(tmp_path)), cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (torn := list(tmp_path.glob("run/.checkpoint_000000020.*"))) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert torn, "the second checkpoint was never begun"
    assert newest(tmp_path / "run") == (10, [])
    assert kept(tmp_path / "run") == [10]


def overfill(folder: Path) -> None:
    manager = CheckpointManager(at(folder), IDENTITY, {})
    manager.prepare(20, state(20) | {"more": torch.zeros(2_000_000)}, {}).write()


def test_on_a_full_disk_the_last_good_checkpoint_survives_and_the_message_says_so(small_disk: Path) -> None:
    fill(small_disk / "run", {10: None})
    with pytest.raises(InputError) as caught:
        overfill(small_disk / "run")
    text = str(caught.value)
    assert "the checkpoint of step 20 needs 8 MiB, but " in text
    assert "free some space and run the same command again to resume from checkpoint_000000010" in text
    assert newest(small_disk / "run") == (10, [])
    assert kept(small_disk / "run") == [10]
