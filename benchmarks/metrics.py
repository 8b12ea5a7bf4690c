"""I3D clips per second of several implementations, the change in FVD of each, and the time of the Frechet distance.

Run `python -m benchmarks.metrics --weights data/weights` on an idle machine. The reference `plain` is eager float32
with separate batch norm layers and channels first. A faster implementation must leave the FVD unchanged.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from components.foundation import allocator
from components.metrics.distances import frechet, i3d
from components.metrics.distances.i3d import I3D, Unit

FRAMES, SIDE = 16, 64
CONTEXTS: dict[str, Callable[[], torch.autocast]] = {
    "float32": lambda: torch.autocast("cpu", enabled=False),
    "bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


class PlainUnit(Unit):
    """Convolution, batch norm and ReLU as separate steps; the scale of the batch norm stays in the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the result of `Unit` in three steps."""
        x, padding = i3d._same_pad(x, self.window, self.step)
        x = functional.conv3d(x, self.weight, None, self.step, padding)
        bias = self.get_parameter("bias")
        mean, variance = torch.zeros_like(bias), torch.ones_like(bias)
        return functional.relu(functional.batch_norm(x, mean, variance, None, bias, eps=0.0))


def plain(network: I3D) -> I3D:
    """Return a copy of the network without its optimisations."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    for module in network.modules():
        if isinstance(module, Unit):
            module.__class__ = PlainUnit
    return network


def moving(count: int, speed: float, seed: int) -> Tensor:
    """Return uint8 clips (b, f, c, h, w) of blurred noise that moves sideways by `speed` pixels per frame."""
    generator = torch.Generator().manual_seed(seed)
    pictures = functional.interpolate(
        torch.rand(count, 3, 8, 24, generator=generator), (SIDE, 3 * SIDE), mode="bicubic"
    )
    frames = [pictures[..., (shift := round(speed * frame)) : shift + SIDE] for frame in range(FRAMES)]
    return (torch.stack(frames, dim=1) * 255).clamp(0, 255).byte()


@torch.no_grad()
def features(network: I3D, clips: Tensor, batch: int, kind: str, channels_last: bool) -> Tensor:
    """Return the I3D features of all clips."""
    parts = []
    for part in clips.split(batch):
        x = i3d.prepared(part)
        x = x if channels_last else x.contiguous()
        with CONTEXTS[kind]():
            parts.append(network(x).float())
    return torch.cat(parts)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="I3D clips per second and milliseconds of the Frechet distance.")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"), help="folder of i3d.safetensors")
    parser.add_argument("--clips", type=int, default=16, help="number of real clips, and of generated clips")
    arguments = parser.parse_args()
    allocator.keep()  # same allocator settings as in every stage
    fast = I3D.load(arguments.weights / "i3d.safetensors")
    slow = plain(fast)
    real, fake = moving(arguments.clips, 2.0, 0), moving(arguments.clips, 3.0, 1)
    ways = [("plain", slow, 4, "float32", False)]
    ways += [("folded, channels last", fast, batch, "float32", True) for batch in (1, 2, 4, 8)]
    ways += [("folded, channels last", fast, 4, "bfloat16", True)]
    base = score = 0.0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.clips} clips per side")
    for name, network, batch, kind, last in ways:
        features(network, real[:batch], batch, kind, last)  # warm-up: the first pass prepares the kernels
        began = time.perf_counter()
        value = frechet.frechet(*(features(network, clips, batch, kind, last) for clips in (real, fake)))
        speed = 2 * arguments.clips / (time.perf_counter() - began)
        base, score = base or speed, score or value
        label = f"{name}, {kind}, batch {batch}"
        print(f"{label:44} {speed:6.2f} clips/s {speed / base:5.2f}x, FVD {100 * (value / score - 1):+.5f} %")
    for count in (64, 256, 2048):
        x, y = torch.randn(count, 400), torch.randn(count, 400) + 0.1
        frechet.frechet(x, y)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            frechet.frechet(x, y)
            times.append(time.perf_counter() - began)
        print(f"Frechet distance, {count} clips per side, 400 features: {1000 * min(times):.1f} ms")


if __name__ == "__main__":
    main()
