"""A map over Ray returns what one in this process does, and survives the death of a worker."""

import os
import time
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from pipeline.runtime import cluster, ray_map
from tests.pipeline.conftest import ROOT


def test_one_worker_maps_in_this_process_and_loads_once() -> None:
    loads = []

    def load():
        loads.append(os.getpid())
        return lambda item: (item * item, os.getpid())

    found = ray_map.INLINE(load, iter(range(4)), total=4, label="square", unit="numbers")
    assert found == [(item * item, os.getpid()) for item in range(4)]
    assert len(loads) == 1


@pytest.mark.faults
def test_several_workers_keep_the_order_the_folder_and_the_sentence_and_replace_one_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def square(item: int) -> int:
        died = Path(f"died-{item}")  # relative, so that it lies in the folder of this process
        if item == 3 and not died.exists():
            died.touch()
            os._exit(1)
        if item < 0:
            raise InputError(f"{item} is negative")
        return item * item

    def die(item: int) -> None:
        os._exit(1)

    two = ray_map.RayMap(2)  # where there is a single CPU, the second worker never starts
    with cluster.connect(tmp_path):
        found = two(lambda: square, range(8), total=8, label="square", unit="numbers")
        assert found == [item * item for item in range(8)]
        assert (tmp_path / "died-3").exists()
        with pytest.raises(InputError, match=r"^-1 is negative$"):
            two(lambda: square, [1, -1], total=2, label="square", unit="numbers")
        with pytest.raises(InputError, match=r"^3 worker processes died at input 1 without a Python error"):
            two(lambda: die, [1], total=1, label="die", unit="numbers")


@pytest.mark.faults
def test_workers_that_ray_stops_because_memory_is_full_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # the machine itself uses more
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    def wait(item: int) -> int:
        time.sleep(60)
        return item

    with (
        cluster.connect(tmp_path),
        pytest.raises(
            InputError, match=r"^Ray stopped workers because a machine's memory was nearly full; close other"
        ),
    ):
        ray_map.RayMap(2)(lambda: wait, range(2), total=2, label="wait", unit="numbers")
