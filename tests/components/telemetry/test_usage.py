"""What a stage says of its cost is what its processes used."""

import time

import pytest

from components.foundation.errors import InputError
from components.telemetry import usage

PRICES = {"currency": "EUR", "cpu_hour": 0.5, "gpu_hour": 2.0}


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_measure_counts_the_processors_time_and_not_the_clocks():
    measure, began = usage.Measure("here", gpus=2), time.monotonic()
    time.sleep(0.3)
    idle = measure.use()
    work(0.3)
    busy, passed = measure.use(), time.monotonic() - began
    assert idle.cpu_seconds < 0.2
    assert 0.3 <= busy.cpu_seconds < 0.6
    assert busy.gpu_seconds == pytest.approx(2 * passed, abs=0.1)  # a GPU is held by the clock
    assert busy.peak_memory > 10


def test_what_a_process_says_last_counts_even_if_it_is_killed_before_its_end(monkeypatch):
    monkeypatch.setattr(usage, "REPORT_SECONDS", 0.02)
    total = usage.UsageTotal(node="a")
    measure = usage.Measure("b", gpus=1)
    with measure.reporting(total.record):
        time.sleep(0.2)
        before = total.uses[measure.key].gpu_seconds
        assert before > 0
        time.sleep(0.1)
    assert list(total.uses) == [measure.key]
    assert total.uses[measure.key].gpu_seconds > before


def test_the_metrics_add_up_processes_and_count_each_node_once():
    total = usage.UsageTotal(node="a")
    for key, node, memory in (("1", "b", 50.0), ("2", "b", 90.0), ("3", "a", 20.0)):
        total.record(key, usage.Usage(node, 3600.0, 1800.0, memory))
    metrics = total.metrics(usage.Usage("?", 7200.0, 0.0, 10.0), gpus=1, seconds=3600.0)
    assert metrics == {"cpu_hours": 5.0, "gpu_hours": 2.5, "peak_memory_mib": 90.0, "node_seconds": 7200.0}
    prices = usage.prices({"prices": PRICES})
    assert usage.cost(metrics, prices) == {"cost_EUR": 7.5}
    assert usage.summary(metrics, prices) == (
        "5 CPU-hours, 2.5 GPU-hours, 7200 node-seconds, at most 90 MiB in a process, EUR 7.5"
    )


def test_without_prices_nothing_costs_anything_and_a_wrong_table_is_one_sentence():
    assert usage.prices({}) is None
    assert usage.prices({"prices": None}) is None
    assert usage.cost({"cpu_hours": 1.0, "gpu_hours": 1.0}, None) == {}
    with pytest.raises(InputError, match=r"params\.yaml: prices: missing key gpu_hour"):
        usage.prices({"prices": {"currency": "EUR", "cpu_hour": 1.0}})
