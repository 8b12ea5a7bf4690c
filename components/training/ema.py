"""Averaged weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters, and copies of the buffers; it starts as the model itself."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averaged.requires_grad_(False)
    return averaged


def averaged_state(averaged: AveragedModel) -> dict[str, torch.Tensor]:
    """The averaged weights under the model's own names."""
    return dict(averaged.module.state_dict())
