"""The only module that imports timm.

timm imports torchvision, whose wheel on PyPI is a CUDA build. With a CPU build of torch, the compiled part of that
wheel does not load, and the import fails because two operators have no schema. Declaring the two schemas is enough,
because nothing here calls the operators.

The functions import timm themselves: the import takes as long as that of torch, and most processes build no model.
"""

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn


def _declare_operators() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for compiled in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(compiled))
            return None
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = _declare_operators()  # a reference that keeps the schemas registered


def mlp(width: int, hidden: int) -> nn.Module:
    """Build an MLP from [..., width] to [..., width]: two linear layers with `hidden` units and a GELU between them."""
    from timm.layers import Mlp

    return Mlp(width, hidden)


def weight_decay_groups(model: nn.Module, weight_decay: float, exempt: Collection[str]) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: all trainable parameters, with and without weight decay.

    Vectors, biases and the parameters named in `exempt` are not decayed.
    """
    from timm.optim import param_groups_weight_decay

    return param_groups_weight_decay(model, weight_decay=weight_decay, no_weight_decay_list=exempt)
