"""A model whose weights, gradients and averages are spread over the workers, and states that do not show it (FSDP2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> nn.Module:
    """Every worker keeps its part of each weight; a block of a list is put together when its turn comes.

    What lies outside of lists of blocks is put together for the whole pass.
    """
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for blocks in reversed(lists):  # the inner ones first: what is spread already is left alone
        for block in blocks:
            if next(block.parameters(), None) is not None:
                fully_shard(block, mesh=mesh)
    # without the last word the averaged weights would stay whole after a validation, and the copy be averaged in vain
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model  # the same module, spread where it stands


def whole(x: Tensor) -> Tensor:
    """The tensor of which every worker has a part; itself where it is not spread."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def gathered(state: Any) -> Any:
    """The same state with every spread tensor whole; all workers must ask for it, in the same order."""
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    return whole(state) if isinstance(state, Tensor) else state


def spread(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a module with every tensor spread as the one of its name in `like`."""
    return {name: _alike(value, like[name]) if name in like else value for name, value in state.items()}


def spread_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser with every moment spread as its parameter; they are numbered in their order."""
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {name: _alike(value, every[number]) for name, value in one.items()}
        for number, one in state["state"].items()
    }
    return {**state, "state": moments}


def _alike(value: Any, like: Any) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # every worker has read all of it: nothing needs to be sent
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
