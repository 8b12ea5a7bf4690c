"""The only door to timm.

timm imports torchvision when it is imported, and torchvision's wheel from the package index is a CUDA build: beside a
CPU build of torch its compiled part does not load, and the import fails because two operators have no schema. Declaring
the schemas is enough; nothing here calls the operators.

It is imported late: that takes as long as torch itself, and most processes of a stage build no model.
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


_LIBRARY = _declare_operators()  # torch forgets the schemas when the object is collected


def mlp(width: int, hidden: int) -> nn.Module:
    """[..., width] to [..., width]: two linear layers, `hidden` numbers between them, and a GELU."""
    from timm.layers import Mlp

    return Mlp(width, hidden)


def weight_decay_groups(model: nn.Module, weight_decay: float, exempt: Collection[str]) -> list[dict[str, Any]]:
    """The trained parameters for an optimiser: vectors, biases and those named are not decayed."""
    from timm.optim import param_groups_weight_decay

    return param_groups_weight_decay(model, weight_decay=weight_decay, no_weight_decay_list=exempt)
