"""`python -m tests.behaviour.on_another_device`: models on a device that is not the CPU and has no numbers.

Tensors have shapes and devices only. Computing across devices is an error there, and so is asking for a number, which
is where a real device would make the host wait; copies between devices are told. It is a process of its own because a
device once invented stays.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from components.foundation.config import parse
from components.foundation.randomness import Stream
from components.foundation.settings import presets
from components.metrics.distances.i3d import I3D
from components.models.canvasmar.model import CanvasMARConfig
from components.models.serialization import ModelDescription
from components.nn.autoencoders.folded import CausalVAEConfig
from components.sampling.frame import SamplerConfig, sample_frames
from components.training.loop import Training
from components.training.optimizer import RecipeConfig
from pipeline.commands.video_predictor import VideoPredictor
from tests.behaviour.conftest import LATENT, tiny_config
from tests.behaviour.families import KINDS, tiny
from tests.pipeline.conftest import ROOT
from tests.pipeline.conftest import tiny as small

DEVICE = "elsewhere"
CANVASMAR: dict[str, dict] = {
    "canvas": {},
    "no canvas": {"canvas": False},
    "two streams": {"block": "mm_dit"},
    "group": {"group": 2},
    "from nothing": {"first_frame": True},
}


class Watching(TorchDispatchMode):
    """Refuses copies from one device to another."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            raise RuntimeError(f"{tuple(args[0].shape)} is copied from {args[0].device} to {out.device}")
        return out


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


@contextmanager
def elsewhere() -> Iterator[None]:
    """Chance has shapes only; the number of visible tokens and the target, drawn on the CPU, are always the same."""
    with ExitStack() as stack:
        for name, value in {
            "components.foundation.randomness.Stream._each": lambda self, shape, draw: torch.empty(
                len(self.samples), *shape, device=self.device
            ),
            "components.models.masking.visible_count": lambda *_: 5,
            "components.training.loop.meta_copy": lambda _: None,
            "torch.randint": lambda *_, **__: 2,
        }.items():
            stack.enter_context(patch(name, value))
        one = patch.object(FakeTensorMode, "__deepcopy__", lambda mode, _: mode, create=True)  # for the averaged model
        stack.enter_context(one)
        stack.enter_context(FakeTensorMode())
        yield


def made(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.set_default_device(DEVICE)
    try:
        return build()
    finally:
        torch.set_default_device("cpu")


def build_of(kind: str) -> Callable[[], torch.nn.Module]:
    return (lambda: tiny_config(**CANVASMAR[kind]).build()) if kind in CANVASMAR else (lambda: tiny(kind))


def sampled(kind: str) -> None:
    content = small(presets.read(ROOT / "presets" / "kuka.yaml"))["samplers"]["default"]
    sampler = parse(SamplerConfig, content | {"sets": 1 if kind == "full_frame" else 4}, where="here")
    model, context = made(build_of(kind)).eval(), torch.empty(3, 2, *LATENT, device=DEVICE)
    with Watching(), torch.no_grad():
        memory = model.remember(context, None)
        (frame, *_) = sample_frames(model, memory, Stream.of(0, range(3), f"{DEVICE}:0"), sampler)
        model.remember(frame.latent[:, None], memory)


def trained(kind: str) -> None:
    content = small(presets.read(ROOT / "presets" / "kuka.yaml"))["recipes"]["model"]
    recipe = parse(RecipeConfig, content | {"precision": "float32"}, where="here")
    training = Training(made(build_of(kind)), lambda module: module, recipe)
    training.averaged.update_parameters = lambda _: None  # torch's own, whose kernels for lists no invented device has
    clips = torch.empty(2, 5, *LATENT, device=DEVICE)
    with Watching():
        for _ in range(2):
            losses, norm = training.update((0, 1), clips)
            training.monitor.add((0, 1), {"loss": losses.total, **losses.terms, "gradient_norm": norm})


def coded(_: str) -> None:
    content = small(presets.read(ROOT / "presets" / "kuka.yaml"))["autoencoders"]["kuka-vae"]
    vae = made(parse(CausalVAEConfig, content, where="here").build)
    with Watching(), torch.no_grad():
        vae.decode(vae.encode(torch.empty(2, 9, 3, 32, 32, device=DEVICE)).chunk(2, dim=2)[0])


def scored(_: str) -> None:
    network = made(I3D).eval()
    with Watching(), torch.no_grad():
        network(torch.empty(2, 3, 16, 224, 224, device=DEVICE))


def predicted(_: str) -> None:
    """From pixels on the CPU to pixels on the CPU; only the context is looked at for numbers that are not finite."""
    params = small(presets.read(ROOT / "presets" / "kuka.yaml"))
    content = params["autoencoders"]["kuka-vae"] | {"precision": "float32"}
    vae = made(parse(CausalVAEConfig, content, where="here").build).eval()
    shape = parse(CanvasMARConfig, params["models"]["canvas"], where="here")
    ones = (1.0,) * shape.latent[0]
    named = ModelDescription(model=shape, autoencoder="", clips="", encoder=None, actions=None, mean=ones, std=ones)
    with (
        patch("torch.tensor", lambda numbers, device: torch.empty(len(numbers), device=device)),
        patch("torch.isfinite", lambda x: SimpleNamespace(all=lambda: True)),
        patch("pipeline.commands.video_predictor.probe", lambda *_: 5),
    ):
        predictor = VideoPredictor(vae, made(shape.build).eval(), named, torch.device(DEVICE))
        predictor.sampler = parse(SamplerConfig, params["samplers"]["default"], where="here")
        clips = torch.zeros(2, 9, 3, 32, 32, dtype=torch.uint8)
        stream = Stream.of(0, (0, 1), f"{DEVICE}:0")
        whole = predictor.predict(clips[:, :1], 8, stream, predictor.sampler)
        predictor.canvases(clips, 1, stream, predictor.sampler)
        context = predictor.prepare(clips[0, :1])
        steps = [step.frame for step in predictor.stream(context, frames=4)]
        parts = [each.frames for each in predictor.stream_batch([context, context], frames=4, seeds=(1, 2))]
        assert {part.device.type for part in (whole.clips, *steps, *parts)} == {"cpu"}


def copied(_: str) -> None:
    with Watching():
        torch.zeros(3).to(DEVICE)


def waited(_: str) -> None:
    float(torch.zeros((), device=DEVICE))


def mixed(_: str) -> None:
    torch.zeros(3, device=DEVICE) + torch.zeros(3)


def wrong(work: Callable[[str], None], kind: str) -> str:
    """What goes wrong, and where."""
    try:
        work(kind)
    except Exception as error:
        ours = [step for step in traceback.extract_tb(error.__traceback__) if "components" in Path(step.filename).parts]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} " if ours else ""
        return f"{place}{type(error).__name__} {error}".splitlines()[0][:300]
    return "nothing"


def main() -> None:
    """A line for each part: its name, and what is wrong with it."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Backend())
    kinds = (*CANVASMAR, *KINDS)
    parts = [(work, kind) for work in (sampled, trained) for kind in kinds]
    parts += [(work, "") for work in (coded, scored, predicted, copied, waited, mixed)]
    for work, kind in parts:
        try:
            with elsewhere():
                work(kind)
            wrong = "nothing"
        except Exception as error:
            ours = [
                step for step in traceback.extract_tb(error.__traceback__) if "components" in Path(step.filename).parts
            ]
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} " if ours else ""
            wrong = f"{place}{type(error).__name__} {error}".splitlines()[0]
        print(f"{work.__name__} {kind}".strip(), wrong, sep=": ")


if __name__ == "__main__":
    sys.exit(main())
