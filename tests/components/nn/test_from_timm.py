import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from components.nn.from_timm import mlp, weight_decay_groups

ROOT = Path(__file__).parents[3]


def test_the_mlp_is_two_linear_layers_with_a_gelu_between() -> None:
    torch.manual_seed(0)
    layers, x = mlp(8, 32), torch.randn(2, 5, 8)
    expected = layers.fc2(nn.functional.gelu(layers.fc1(x)))
    assert layers.fc1.weight.shape == (32, 8)
    assert torch.equal(layers(x), expected)


def test_parameter_groups_hold_every_trained_parameter_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    groups = weight_decay_groups(model, 0.1, set())
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


def test_a_stage_that_builds_no_model_does_not_wait_for_timm() -> None:
    code = "import sys, components.models.kinds, components.training.loop; print('timm' in sys.modules)"
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvisions_operators_are_declared_whichever_build_is_installed() -> None:
    import torchvision

    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision.ops.nms.__name__ == "nms"
