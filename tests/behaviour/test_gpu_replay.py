"""On a GPU, a video that is sampled again is replayed, and is the same to the bit."""

import gc
import weakref

import pytest
import torch

from components.foundation.randomness import Stream
from components.sampling import cuda_graphs, frame
from components.sampling.rollout import rollout
from tests.behaviour.conftest import LATENT
from tests.behaviour.families import KINDS, opened

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CANVASMAR = {
    "canvas": {},
    "no canvas": {"canvas": False},
    "two streams": {"block": "mm_dit"},
    "group": {"group": 2},
    "from nothing": {"first_frame": True},
}
SMALL = torch.bfloat16


def video(model, sampler, given=2, seed=0, batch=3):
    context = torch.randn(batch, given, *LATENT, generator=torch.Generator().manual_seed(2)).cuda()
    steps = rollout(model, context, 4, Stream.of(seed, range(batch), "cuda"), sampler)
    with torch.no_grad():  # which `rollout` says itself, but not to a generator whose shapes are checked
        return torch.stack([step.latent for step in steps], dim=1)


@pytest.fixture
def launched(monkeypatch):
    """Videos made without recordings."""

    def launch(*asked, **more):
        with monkeypatch.context() as patch:
            patch.setattr(frame, "run_graphed", lambda compute, model, *values: compute(model, *values))
            return video(*asked, **more)

    return launch


@pytest.fixture
def recorded(monkeypatch):
    """How many recordings there are."""
    made = []
    record = cuda_graphs.Recording.__init__
    monkeypatch.setattr(cuda_graphs.Recording, "__init__", lambda self, *of: made.append(self) or record(self, *of))
    return made


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("kind", [*CANVASMAR, *KINDS])
def test_a_replayed_video_is_the_launched_one(kind, cast, make, sampler, launched, recorded):
    model = (make(**CANVASMAR[kind]) if kind in CANVASMAR else opened(kind)).cuda()
    if kind == "full_frame":
        sampler = sampler.model_copy(update={"sets": 1})
    given = 0 if kind == "from nothing" else 2
    for _ in range(3):  # asked for once, recorded, replayed
        with torch.autocast("cuda", SMALL, enabled=cast):
            again = [video(model, sampler, given, seed) for seed in (0, 1)]
        with torch.autocast("cuda", SMALL, enabled=cast):
            alone = [launched(model, sampler, given, seed) for seed in (0, 1)]
        for replayed, plain in zip(again, alone, strict=True):
            assert torch.equal(replayed, plain)
    assert recorded


def test_weights_that_are_trained_on_are_seen(make, sampler, launched):
    model = make().cuda()
    before = [video(model, sampler) for _ in range(3)][-1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    after = video(model, sampler)
    assert not torch.equal(after, before)
    assert torch.equal(after, launched(model, sampler))


def test_a_model_that_nobody_needs_is_freed_with_its_recordings(make, sampler, recorded):
    model = make().cuda()
    for _ in range(3):
        video(model, sampler)
    gone, several = weakref.ref(model), [weakref.ref(recording) for recording in recorded]
    recorded.clear()
    del model
    gc.collect()
    assert several
    assert gone() is None
    assert all(one() is None for one in several)
