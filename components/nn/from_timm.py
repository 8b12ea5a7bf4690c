"""The only door to timm.

timm imports torchvision when it is imported, and torchvision's wheel from the package index is a CUDA build: beside a
CPU build of torch its compiled part does not load, and the import fails because two operators have no schema. Declaring
the schemas is enough; nothing here calls the operators.
"""

import importlib.util
from pathlib import Path

import torch


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

from timm.layers import Mlp  # noqa: E402
from timm.optim import param_groups_weight_decay  # noqa: E402

__all__ = ["Mlp", "param_groups_weight_decay"]
