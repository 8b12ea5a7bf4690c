"""Sharding of weights, gradients and averages over the workers (FSDP2), and conversion to and from unsharded states."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> nn.Module:
    """Shard the model in place, so that each worker stores a part of every weight, and return the same model.

    The weights of a block in a ModuleList are gathered only while that block runs, all other weights for the whole
    pass. They are gathered in float32, whatever the recipe's precision: autocast computes norms in float32, and FSDP's
    MixedPrecisionPolicy would cast all weights of a block.
    """
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for blocks in reversed(lists):  # inner lists first: FSDP skips parameters that are already sharded
        for block in blocks:
            if next(block.parameters(), None) is not None:
                fully_shard(block, mesh=mesh)
    # by default the root stays gathered after a forward pass: EMA updates after a validation would change that copy
    # and be lost
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def full_tensor(x: Tensor) -> Tensor:
    """Return the full tensor of a sharded one; other tensors unchanged."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def gather(state: Any) -> Any:
    """Return, on rank 0, a copy of the state in which every tensor is whole and on the CPU.

    The other ranks get None for every tensor. All workers must call this together. Tensors are gathered one by one, so
    no worker holds more than one of them on its device.
    """
    if isinstance(state, Mapping):
        return {key: gather(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gather(value) for value in state)
    if not isinstance(state, Tensor):
        return state
    whole = full_tensor(state.detach())  # on every rank: only together can they gather it
    if distributed.is_initialized() and distributed.get_rank() > 0:
        return None
    return whole.to("cpu", copy=not isinstance(state, DTensor))


def shard_like(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's state with every tensor sharded like the tensor of the same name in `like`."""
    return {name: _shard_tensor(value, like[name]) if name in like else value for name, value in state.items()}


def shard_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state with every moment sharded like its parameter.

    The state numbers the parameters in the order of the optimiser's groups.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _shard_tensor(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}


def _shard_tensor(value: Any, like: Any) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # every worker has loaded the whole state, so no rank needs to broadcast it
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
