"""What a training step asks of the device it runs on."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.training.loop import Training
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import recipe


class Read(TorchDispatchMode):
    """Notes the file from which a number is asked of a tensor: on a GPU everything would wait for the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            stack = [Path(frame.filename) for frame in traceback.extract_stack()[:-1]]
            self.files.append(next(path.name for path in reversed(stack) if path.parent.name in ASKING))
        return func(*args, **(kwargs or {}))


ASKING = ("components", "models", "nn", "training", "optim")


def test_a_step_asks_no_number_of_the_device() -> None:
    training = Training(tiny_config().build().train(), lambda model: model, recipe(learning_rate=1e-3))
    batch = torch.randn(4, 5, *LATENT)
    training.update((0, 1, 2, 3), batch)
    with Read() as read:
        training.update((0, 1, 2, 3), batch)
    # the mask ratio, drawn on the CPU, and twice whether the average has begun, which lies there too
    assert sorted(read.files) == ["masking.py", "swa_utils.py", "swa_utils.py"]
    assert training.averaged.n_averaged.device.type == "cpu"
