"""Without RAY_ADDRESS, nothing that a stage or the server starts can be reached from another machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment, free_port, is_loopback

pytestmark = pytest.mark.faults

# starts what stages start: tasks, a training of two workers that have exchanged tensors, and the server
SCRIPT = """
import json
import sys
from pathlib import Path
import psutil
from pipeline.fitting.workers import NodeNetworkConfig, ray
from pipeline.runtime import cluster

def sockets():
    found = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        connections = process.net_connections("inet")
        found += [(Path(process.cmdline()[0]).name, *c.laddr) for c in connections if c.status == psutil.CONN_LISTEN]
    return found

def train(file):
    import torch
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    assert total == 2
    if ray.train.get_context().get_world_rank() == 0:
        Path(file).write_text(json.dumps(sockets()))
    torch.distributed.barrier()

with cluster.connect(Path.cwd()):
    from pipeline.commands import serve
    here = Path.cwd()
    trainer = ray.train.torch.TorchTrainer(
        train, train_loop_config=str(here / "worker.json"), torch_config=NodeNetworkConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(storage_path=str(here / "kept")),
    )
    trainer.fit()
    serve.listen(int(sys.argv[1]))
    print(json.dumps(sockets() + json.loads((here / "worker.json").read_text())))
"""


def test_every_socket_that_a_stage_or_the_server_opens_is_on_loopback(tmp_path: Path) -> None:
    port = free_port()
    patient = {f"RAY_{name}": "300" for name in ("raylet_start_wait_time_s", "worker_register_timeout_seconds")}
    patient |= {"RAY_agent_register_timeout_ms": "300000"}
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT, str(port)), cwd=tmp_path, capture_output=True, text=True, timeout=900,
        env=environment() | patient | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    opened = [(name, address, number) for name, address, number in json.loads(done.stdout.splitlines()[-1])]
    names = {name for name, _, _ in opened}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= names
    assert any("TrainWorker" in name for name in names), opened
    assert port in [number for _, _, number in opened]
    assert [one for one in opened if not is_loopback(one[1])] == []
