"""Each node of a cluster has its own series of system metrics in the run."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.monitoring import nodes
from tests.pipeline.conftest import ROOT, environment

TWO_NODES = """
import sys, time
from pathlib import Path

from components.telemetry import tracking
from pipeline.monitoring import nodes

import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
other = cluster.add_node(num_cpus=1, object_store_memory=10**8)
with tracking.run("stage", root=Path(sys.argv[1]), tags={}, parameters={}) as log, nodes.watched(log.handle):
    time.sleep(float(sys.argv[2]))
print("run", log.id, *nodes.names(ray.nodes()).values())
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.faults
def test_every_node_logs_its_metrics_as_its_own_series(tmp_path: Path) -> None:
    faster = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TWO_NODES, str(tmp_path), "20"]
    done = subprocess.run(
        command, env=environment() | faster, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, run, *names = next(line for line in done.stdout.splitlines() if line.startswith("run ")).split()
    metrics = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db").get_run(run).data.metrics
    cpu = {name.rpartition("/")[0] for name in metrics if name.endswith("/cpu_utilization_percentage")}
    own, other = sorted(cpu, key=len)
    assert own == "system"  # the node of the stage itself
    assert other.removeprefix("system/") in names


def test_nodes_of_one_host_name_have_different_names_and_lost_ones_none() -> None:
    found = [
        {"NodeID": "aaaaaaaa", "NodeManagerHostname": "one", "Alive": True},
        {"NodeID": "bbbbbbbb", "NodeManagerHostname": "two", "Alive": True},
        {"NodeID": "cccccccc", "NodeManagerHostname": "two", "Alive": True},
        {"NodeID": "dddddddd", "NodeManagerHostname": "one", "Alive": False},
    ]
    assert nodes.names(found) == {"aaaaaaaa": "one", "bbbbbbbb": "two-bbbbbb", "cccccccc": "two-cccccc"}
