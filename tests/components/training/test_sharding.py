"""Two workers of a real process group, with the whole model each or with their parts of it, against one."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from components.datasets.loading import share
from components.training.loop import Data, Training, fit
from components.training.sharding import gather, shard_like
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import equal, recipe

BATCH, STEPS, HALF = 5, 6, 3  # two workers have two and three clips, and take turns of two at most
CLIPS = torch.randn(16, 3, *LATENT, generator=torch.Generator().manual_seed(2))


def data(rank: int, world: int) -> Data:
    def batches(start: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        for step in itertools.count(start):
            own = share(tuple((BATCH * step + place) % 16 for place in range(BATCH)), rank, world)
            yield own, CLIPS[list(own)]

    return Data(batches, [((14, 15), CLIPS[14:])])


def follow(rank: int, world: int, state: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """A training to its end, from this state on if there is one: its losses, its state half way and at the end."""
    config = recipe(
        steps=STEPS, batch=BATCH, micro_batch=2, log_every=1, validate_every=HALF, checkpoint_every=HALF,
        learning_rate=0.01, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    parallel = DistributedDataParallel if world > 1 else nn.Identity()
    training = Training(tiny_config().build(), parallel, config)
    if state is not None:
        training.restore(state)
    states, losses = {}, []
    for progress in fit(training, data(rank, world)):
        named = ("loss", "flow", "gradient_norm", "validation_loss", "validation_raw_loss")
        losses.append({name: value for name, value in progress.metrics.items() if name in named})
        if progress.state is not None:
            states[progress.step] = progress.state()
    return {"losses": losses, "half": states.get(HALF), "end": states[STEPS], "weights": training.weights()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    found = {parallel: follow(rank, 2, None, parallel=parallel) for parallel in ("ddp", "fsdp")}
    found["moved"] = follow(rank, 2, torch.load(folder / "half.pt"), parallel="fsdp", activation_checkpointing=True)
    torch.save(found, folder / f"found-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training on one worker, on two that hold all, on two that hold parts, and on two that went on from the one."""
    folder = tmp_path_factory.mktemp("two")
    one = follow(0, 1, None)
    torch.save(one["half"], folder / "half.pt")
    multiprocessing.spawn(work, (folder,), nprocs=2)
    found, other = (torch.load(folder / f"found-{rank}.pt") for rank in (0, 1))
    return {"one": one, **found, "other rank": other}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_workers_of_whom_one_has_a_clip_more_follow_one(found: dict[str, Any], parallel: str) -> None:
    for one, two in zip(found["one"]["losses"], found[parallel]["losses"], strict=True):
        assert two == pytest.approx(one, rel=2e-4)


def test_the_state_of_a_spread_model_is_that_of_a_whole_one(found: dict[str, Any]) -> None:
    whole, spread_out = found["ddp"]["end"], found["fsdp"]["end"]
    assert layout(whole) == layout(spread_out)


def test_a_training_moves_from_one_worker_to_two_that_share_the_model_and_back(found: dict[str, Any]) -> None:
    back = follow(0, 1, found["fsdp"]["half"])
    for moved in (found["moved"], back):
        for one, two in zip(found["one"]["losses"][HALF:], moved["losses"], strict=True):
            assert two == pytest.approx(one, rel=2e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_only_the_first_worker_holds_the_state(found: dict[str, Any], parallel: str) -> None:
    assert tensors(found[parallel]["half"])
    assert tensors(found["other rank"][parallel]["half"]) == []
    assert tensors(found["other rank"][parallel]["weights"]) == []


def test_a_state_that_is_not_spread_is_copied_as_it_is() -> None:
    state = {"a": torch.ones(2), "b": [1, torch.zeros(1)], "c": "d"}
    copied = gather(state)
    assert equal(copied, state)
    assert equal(shard_like(state, {"a": torch.zeros(2)}), state)
    state["a"].zero_()
    assert not equal(copied, state)


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def layout(state: Any) -> Any:
    if isinstance(state, Tensor):
        return type(state), tuple(state.shape), state.dtype
    if isinstance(state, dict):
        return {key: layout(value) for key, value in state.items() if key != "window"}
    return type(state)
