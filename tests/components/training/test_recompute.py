import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMARConfig
from components.training.loop import Training
from components.training.resources import checkpoint_activations
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import recipe

ROOT = Path(__file__).parents[3]
MODULE = "tests.components.training.test_recompute"
CLIPS = torch.randn(4, 3, *LATENT, generator=torch.Generator().manual_seed(2))


def steps(config: CanvasMARConfig, **changes: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The losses of some steps, and the averaged weights after them."""
    torch.manual_seed(0)
    whole = Training(config.build(), lambda model: model, recipe(**changes))
    losses = [whole.update((0, 1, 2, 3), CLIPS)[0].total for _ in range(3)]
    return losses, whole.weights()


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_computing_blocks_again_changes_no_loss_and_no_weight(block: str, precision: str) -> None:
    config = tiny_config(block=block)
    losses, weights = steps(config, precision=precision)
    again, same = steps(config, precision=precision, activation_checkpointing=True)
    assert losses == again
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_blocks_that_are_computed_again_keep_less() -> None:
    def kept(changed: bool) -> int:
        model, held = tiny_config().build(), []
        if changed:
            checkpoint_activations(model)
        draws = model.draw(CLIPS, Stream.of(0, range(4)))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.numel()) or x, lambda x: x):
            model(CLIPS, draws)
        return sum(held)

    assert kept(True) < 0.7 * kept(False)


def shallow() -> CanvasMARConfig:
    """Every kind of layer once: each costs the compiler most of a minute."""
    config = tiny_config()
    layers = {"temporal": 1, "canvas": 1, "spatial": 2, "head": 1}
    changed = {name: getattr(config, name).model_copy(update={"layers": count}) for name, count in layers.items()}
    return config.model_copy(update=changed)


@pytest.mark.faults
def test_a_compiled_model_has_the_same_losses() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none on this machine")
    # in a process of its own, where no shapes are checked at run time: dynamo cannot look into that
    both = "steps(shallow())[0] + steps(shallow(), compile=True)[0]"
    code = f"from {MODULE} import shallow, steps; print(*map(float, {both}))"
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    told = list(map(float, done.stdout.split()))
    half = len(told) // 2
    assert half > 0
    assert told[half:] == pytest.approx(told[:half], rel=1e-4, abs=1e-5)
