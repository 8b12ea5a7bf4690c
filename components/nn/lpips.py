"""LPIPS 0.1: perceptual distance of two images from the features of an ImageNet trunk (Zhang et al. 2018)."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from components.foundation.errors import InputError

Net = Literal["vgg", "alex"]


@dataclass(frozen=True, slots=True)
class Trunk:
    """Convolutions of a trunk, grouped into stages; some stages begin with a max pool."""

    convolutions: tuple[tuple[int, int, int, int, int], ...]  # (inputs, outputs, kernel, stride, padding)
    stages: tuple[tuple[int, int], ...]  # (kernel of the max pool or 0 for none, index of the last convolution + 1)
    smallest: int  # smallest height and width in pixels for which the last stage is not empty


def _vgg(*widths: int) -> tuple[tuple[int, int, int, int, int], ...]:
    return tuple((before, after, 3, 1, 1) for before, after in zip((3, *widths), widths, strict=False))


TRUNKS: Final[dict[Net, Trunk]] = {
    "vgg": Trunk(
        _vgg(64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
        ((0, 2), (2, 4), (2, 7), (2, 10), (2, 13)),
        smallest=16,
    ),
    "alex": Trunk(
        ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)),
        ((0, 1), (3, 2), (3, 3), (0, 4), (0, 5)),
        smallest=31,
    ),
}


class LPIPS(nn.Module):
    """Frozen LPIPS network: gradients reach the images but never the weights.

    Fewer `stages` than five cost less and compare finer detail only; the value is then not the published LPIPS.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net, stages: int) -> None:
        super().__init__()
        trunk = TRUNKS[net]
        self.smallest = trunk.smallest
        self.stages = trunk.stages[:stages]
        convolutions = trunk.convolutions[: self.stages[-1][1]]
        self.convolutions = nn.ModuleList(nn.Conv2d(*sizes) for sizes in convolutions)
        self.heads = nn.ParameterList(torch.zeros(convolutions[end - 1][1]) for _, end in self.stages)
        # ImageNet's mean and standard deviation, for images in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path, net: Net, stages: int = 5) -> "LPIPS":
        """Return LPIPS with the public weights from `path` (lpips.safetensors) and the first `stages` trunk stages.

        Raises InputError if the file does not hold these weights, or `net` or `stages` does not exist.
        """
        if net not in TRUNKS or not 1 <= stages <= len(TRUNKS[net].stages):
            raise InputError(
                f"LPIPS with net {net!r} and {stages} stages does not exist; use net vgg or alex, and 1 to 5 stages"
            )
        network = cls(net, stages)
        try:
            with safe_open(path, framework="pt") as file:
                network.load_state_dict({name: file.get_tensor(f"{net}.{name}") for name in network.state_dict()})
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; run `dvc repro weights`") from None
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path} does not hold the weights of LPIPS ({reason}); delete it and run `dvc repro weights`"
            ) from None
        return network

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        """Return the float32 distance of each pair of RGB images in [-1, 1]; equal images have distance 0.

        The distance is the sum over stages of the mean over pixels of w . (x' - y')^2, where x' and y' are features of
        unit length (eq. 1). Raises InputError if the images are too small for the trunk.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise InputError(
                f"LPIPS needs frames of at least {self.smallest}x{self.smallest} pixels for this net, "
                f"not {x.shape[-2]}x{x.shape[-1]}; use larger frames or switch LPIPS off"
            )
        features = zip(self.heads, self._features(x), self._features(y), strict=True)
        return torch.stack([self._stage(head, a, b) for head, a, b in features]).sum(dim=0)

    def embed(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the last stage's features of each RGB image in [-1, 1], averaged over pixels."""
        return self._features(x)[-1].mean(dim=(2, 3))

    def _features(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d _ _"]]:
        x = (x - self.shift) / self.scale
        features, start = [], 0
        for pool, end in self.stages:
            x = functional.max_pool2d(x, pool, stride=2) if pool else x
            for convolution in self.convolutions[start:end]:
                x = functional.relu(convolution(x))
            features.append(x)
            start = end
        return features

    @staticmethod
    def _stage(
        head: Float[Tensor, "d"], x: Float[Tensor, "b d h w"], y: Float[Tensor, "b d h w"]
    ) -> Float[Tensor, "b"]:
        kind = x.device.type
        supported = torch.amp.is_autocast_available(kind)  # the meta device has no autocast
        with torch.autocast(kind, enabled=False) if supported else nullcontext():  # small differences need float32
            difference = (_unit(x.float()) - _unit(y.float())).square()
            return torch.einsum("bdhw,d->bhw", difference, head.float()).mean(dim=(1, 2))


def _unit(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    # the gradient of vector_norm at zero is zero; that of the square root of a sum of squares is NaN
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
