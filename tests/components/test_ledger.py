"""What the stages took is read back from their runs."""

import pytest

from components import ledger, tracking


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    return tmp_path


def ran(root, stage, row, seconds, fails=False):
    tags = {"stage": stage, "row": row, "commit": "0123456789abcdef", "cpus": "2"}
    with tracking.run(stage, root=root, tags=tags, parameters={}) as log:
        log.metrics({"stage_seconds": seconds, "peak_memory_mib": 512.0, "cpu_hours": 0.5, "cost_EUR": 0.25})
        if fails:
            raise KeyboardInterrupt


def test_the_last_finished_run_of_each_stage_counts_and_a_killed_one_does_not(store):
    ran(store, "train", "a", 10.0)
    ran(store, "evaluate", "a", 5.0)
    ran(store, "train", "a", 20.0)
    with pytest.raises(KeyboardInterrupt):
        ran(store, "train", "a", 99.0, fails=True)
    found = ledger.costs(store)
    assert [(one.stage, one.row, one.seconds) for one in found] == [("evaluate", "a", 5.0), ("train", "a", 20.0)]
    assert (found[0].commit, found[0].memory, found[0].machine) == ("0123456789", 512.0, "2 CPU cores")
    assert (found[0].cpu_hours, found[0].paid) == (0.5, "0.25 EUR")


def test_no_runs_are_no_costs(store):
    assert ledger.costs(store) == []
