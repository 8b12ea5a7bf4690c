import importlib.util

import pytest
import torch
from torch import nn

from components.nn.from_timm import Mlp, param_groups_weight_decay


def test_the_mlp_is_two_linear_layers_with_a_gelu_between() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(8, 32), torch.randn(2, 5, 8)
    expected = mlp.fc2(nn.functional.gelu(mlp.fc1(x)))
    assert mlp.fc1.weight.shape == (32, 8)
    assert torch.equal(mlp(x), expected)


def test_parameter_groups_hold_every_trained_parameter_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    groups = param_groups_weight_decay(model, weight_decay=0.1, no_weight_decay_list=set())
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvisions_operators_are_declared_whichever_build_is_installed() -> None:
    import torchvision

    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision.ops.nms.__name__ == "nms"
