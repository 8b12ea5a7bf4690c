from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from components.foundation.errors import InputError
from components.nn.lpips import LPIPS

# the pairs of layers after which the published trunks pool, and whose outputs LPIPS compares
POOLED = {"vgg": (2, 4, 7, 10), "alex": (1, 2)}
COMPARED = {"vgg": (1, 3, 6, 9, 12), "alex": (0, 1, 2, 3, 4)}


def pair(count: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def random_judge() -> LPIPS:
    torch.manual_seed(0)
    judge = LPIPS("alex", 5)
    for head in judge.heads:
        torch.nn.init.uniform_(head)
    return judge


def naive(path: Path, net: str, x: Tensor, y: Tensor) -> list[float]:
    """The formula of the paper, spelt out for one pair in float64: one number a stage."""
    arrays = {name: value.double() for name, value in load_file(path).items()}

    def trunk(image: Tensor) -> list[Tensor]:
        means, deviations = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        image = torch.stack([(image[i].double() - means[i]) / deviations[i] for i in range(3)])
        outputs = []
        for layer in range(COMPARED[net][-1] + 1):
            if layer in POOLED[net]:
                image = functional.max_pool2d(image, *((2, 2) if net == "vgg" else (3, 2)))
            weight, bias = arrays[f"{net}.convolutions.{layer}.weight"], arrays[f"{net}.convolutions.{layer}.bias"]
            padding = 2 if weight.shape[-1] > 3 else 1
            stride = 4 if weight.shape[-1] == 11 else 1
            image = functional.conv2d(image[None], weight, bias, stride, padding)[0].clamp(min=0)
            if layer in COMPARED[net]:
                outputs.append(image)
        return outputs

    numbers = []
    for stage, (a, b) in enumerate(zip(trunk(x), trunk(y), strict=True)):
        a, b = (f / ((f * f).sum(dim=0).sqrt() + 1e-10) for f in (a, b))
        total = sum(w * ((a[i] - b[i]) ** 2).mean() for i, w in enumerate(arrays[f"{net}.heads.{stage}"]))
        numbers.append(float(total))
    return numbers


def test_vgg_gives_the_values_that_the_original_package_gives(public_weights: Path) -> None:
    # ten pairs of numpy's seed 123 in [0, 1], as published for lpips 0.1.4 with net="vgg", normalize=True
    random = np.random.RandomState(123)
    x, y = (torch.tensor(random.rand(10, 3, 100, 100), dtype=torch.float32) * 2 - 1 for _ in range(2))
    published = [0.3497, 0.3494, 0.3473, 0.3558, 0.3437, 0.3366, 0.3716, 0.3516, 0.3472, 0.3413]
    with torch.no_grad():
        found = LPIPS.load(public_weights / "lpips.safetensors", "vgg")(x, y)
    assert found.tolist() == pytest.approx(published, abs=5.1e-5)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_every_number_of_stages_sums_the_papers_formula(public_weights: Path, net: str) -> None:
    path = public_weights / "lpips.safetensors"
    x, y = pair(2, 48)
    expected = [naive(path, net, x[i], y[i]) for i in range(2)]
    for stages in (1, 2, 3, 5):
        judge = LPIPS.load(path, net, stages=stages)
        assert judge(x, y).tolist() == pytest.approx([sum(numbers[:stages]) for numbers in expected], rel=1e-5)


def test_equal_pictures_are_at_distance_zero_and_the_distance_is_symmetric() -> None:
    judge, (x, y) = random_judge(), pair(2, 64)
    assert judge(x, x).tolist() == [0, 0]
    assert torch.equal(judge(x, y), judge(y, x))


def test_gradients_reach_the_pictures_and_never_the_weights() -> None:
    judge, (x, y) = random_judge(), pair(2, 64)
    x.requires_grad_()
    judge(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in judge.parameters())


def test_gradients_are_finite_where_every_feature_is_zero() -> None:
    judge = random_judge()
    for convolution in judge.convolutions:
        torch.nn.init.zeros_(convolution.bias)
    # a picture at the mean of ImageNet has no features at all
    x = judge.shift.expand(1, 3, 64, 64).clone().requires_grad_()
    judge(x, pair(1, 64)[1]).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_it_keeps_float32_distances_under_bfloat16_autocast() -> None:
    judge, (x, y) = random_judge(), pair(2, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = judge(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, judge(x, y), rtol=0.02, atol=0)


def test_channels_last_changes_nothing() -> None:
    judge, (x, y) = random_judge(), pair(2, 64)
    expected = judge(x, y)
    judge.to(memory_format=torch.channels_last)
    found = judge(x.to(memory_format=torch.channels_last), y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_frames_that_are_too_small_are_an_input_error() -> None:
    random_judge()(*pair(1, 31))
    with pytest.raises(InputError, match="at least 31x31 pixels"):
        random_judge()(*pair(1, 30))
    LPIPS("vgg", 5)(*pair(1, 16))
    with pytest.raises(InputError, match="at least 16x16 pixels"):
        LPIPS("vgg", 5)(*pair(1, 15))


@pytest.mark.parametrize("stages", [0, 6, -1])
def test_a_number_of_stages_that_does_not_exist_is_an_input_error(tmp_path: Path, stages: int) -> None:
    with pytest.raises(InputError, match="1 to 5 stages"):
        LPIPS.load(tmp_path / "lpips.safetensors", "alex", stages=stages)


def test_a_missing_or_foreign_file_of_weights_is_an_input_error(public_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        LPIPS.load(tmp_path / "lpips.safetensors", "alex")
    with pytest.raises(InputError, match="does not hold the weights of LPIPS"):
        LPIPS.load(public_weights / "i3d.safetensors", "alex")
    (tmp_path / "lpips.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="does not hold the weights of LPIPS"):
        LPIPS.load(tmp_path / "lpips.safetensors", "alex")
