"""What two workers of a real process group, which share a model, hold in tensors before and after a checkpoint."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.tensor import DTensor

from components.training.checkpoints import CheckpointManager
from components.training.loop import Data, Training, fit
from components.training.storage import Storage
from pipeline.fitting.workers import RayWorker, due_checkpoint, resume
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import recipe

pytestmark = pytest.mark.faults
CLIPS = torch.randn(4, 3, *LATENT, generator=torch.Generator().manual_seed(2))
SLACK = 20_000  # bytes of batches, metrics and random draws


class Quiet(RayWorker):
    """A worker without Ray."""

    def warn(self, text: str) -> None:
        pass


def held() -> int:
    """The bytes of all tensors that this process holds, each storage once."""
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, Tensor) and not isinstance(one, DTensor)]
    sizes = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found if not one.is_meta}
    return sum(sizes.values())


def data(rank: int) -> Data:
    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        while True:
            yield (2 * rank, 2 * rank + 1), CLIPS[2 * rank : 2 * rank + 2]

    return Data(batches, [])


def training(rank: int) -> Training:
    config = recipe(steps=6, batch=4, log_every=2, validate_every=100, checkpoint_every=2, parallel="fsdp")
    torch.manual_seed(0)
    return Training(tiny_config().build(), nn.Identity(), config)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=2)
    worker = Quiet(rank, 2, torch.device("cpu"), nn.Identity(), None)
    checkpoints = CheckpointManager(Storage.at(str(folder), "run"), {}, {})
    sizes: dict[str, list[int]] = {"between": [], "after": [], "resumed": []}
    first = training(rank)
    for progress in fit(first, data(rank)):
        if progress.state is None:
            sizes["between"].append(held())
            continue
        pending = due_checkpoint(progress, [], checkpoints, worker)
        if pending is not None:
            pending.write()
        del pending
        sizes["after"].append(held())
    parameters = sum(weight.numel() for weight in first.model.parameters()) * 4
    del first, progress
    resumed = training(rank)
    resume(resumed, checkpoints, worker)
    sizes["resumed"].append(held())
    content = {**sizes, "parameters": parameters, "step": resumed.step}
    (folder / f"{rank}.json").write_text(json.dumps(content), encoding="utf-8")
    distributed.destroy_process_group()


def test_a_worker_holds_its_shards_before_and_after_a_checkpoint_and_after_a_resume(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text("utf-8"))
        print(rank, found)
        assert found["step"] == 6
        before = found["between"][0]  # after the first step, with gradients and moments
        # weights, averages, two moments and gradients of half of the parameters
        assert before == pytest.approx(2.5 * found["parameters"], rel=0.15)
        assert max(found["between"] + found["after"] + found["resumed"]) <= before + SLACK
