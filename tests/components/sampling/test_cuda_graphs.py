"""A recording gives what the computation gives, and is made only of what is asked for again."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from components.sampling import cuda_graphs
from components.sampling.cuda_graphs import GraphCache, Recording, run_graphed


@dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, model, pair, offset):
        one, other = pair
        return self.factor * model(one.first) + other + offset


@dataclass(frozen=True)
class Held:
    first: Tensor
    name: str


class Copy(Recording):
    """What stands for a GPU's recording: it computes, on tensors of its own, when it is replayed."""

    made: list[object]

    def __init__(self, compute, values, pool):
        Copy.made.append(self)
        self.compute, self.values = compute, values
        self.inputs = [tensor.clone() for tensor in cuda_graphs.flatten(values)[0]]

    def replay(self, values):
        for own, given in zip(self.inputs, cuda_graphs.flatten(values)[0], strict=True):
            own.copy_(given)
        return self.compute(*cuda_graphs.unflatten(self.values, iter(self.inputs)))


@pytest.fixture
def model():
    Copy.made = []
    torch.manual_seed(0)
    return nn.Linear(3, 3)


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    with torch.no_grad():
        yield


def values(seed, rows=2, name="a", offset=0.5):
    one, other = torch.randn(2, rows, 3, generator=torch.Generator().manual_seed(seed))
    return (Held(one, name), other), offset


def test_what_is_asked_for_again_is_recorded_once_and_gives_the_same(model):
    cache = GraphCache(model, Copy)
    for turn, seed in enumerate((1, 2, 3, 1)):
        assert torch.equal(cache.run(Scaled(2.0), model, *values(seed)), Scaled(2.0)(model, *values(seed)))
        assert len(Copy.made) == min(turn, 1)


@pytest.mark.parametrize(
    "other",
    [
        (Scaled(3.0), values(1)),
        (Scaled(2.0), values(1, rows=4)),
        (Scaled(2.0), values(1, name="b")),
        (Scaled(2.0), values(1, offset=0.25)),
    ],
)
def test_another_computation_shape_or_constant_has_a_recording_of_its_own(model, other):
    cache = GraphCache(model, Copy)
    for compute, given in ((Scaled(2.0), values(1)), other) * 2:
        assert torch.equal(cache.run(compute, model, *given), compute(model, *given))
    assert len(Copy.made) == 2


def test_a_recording_sees_weights_that_change_and_is_not_used_for_others_that_replace_them(model):
    cache = GraphCache(model, Copy)
    for _ in range(2):
        cache.run(Scaled(1.0), model, *values(1))
    model.weight += 1
    assert torch.equal(cache.run(Scaled(1.0), model, *values(1)), Scaled(1.0)(model, *values(1)))
    assert len(Copy.made) == 1
    model.weight = nn.Parameter(torch.ones(3, 3))
    cache.run(Scaled(1.0), model, *values(1))
    assert len(Copy.made) == 1  # asked for once with these weights, it is only computed
    cache.run(Scaled(1.0), model, *values(1))
    assert len(Copy.made) == 2


def test_what_comes_round_more_seldom_than_recordings_are_kept_is_never_recorded(model, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 3)
    cache = GraphCache(model, Copy)
    for rows in (1, 2, 3, 4) * 3:
        cache.run(Scaled(1.0), model, *values(1, rows=rows))
    assert not Copy.made


class Refused(Copy):
    def __init__(self, compute, values, pool):
        super().__init__(compute, values, pool)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


class Wrong(Copy):
    def replay(self, values):
        return super().replay(values) * 1.1


@pytest.mark.parametrize(
    ("record", "reason"), [(Refused, "not permitted when stream is capturing$"), (Wrong, "from the direct result")]
)
def test_what_cannot_be_recorded_or_is_replayed_wrongly_is_launched_ever_after_and_told_once(model, record, reason):
    cache = GraphCache(model, record)
    cache.run(Scaled(1.0), model, *values(1))
    with pytest.warns(UserWarning, match=f"without a CUDA graph, which is slower but correct: .*{reason}"):
        assert torch.equal(cache.run(Scaled(1.0), model, *values(1)), Scaled(1.0)(model, *values(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.run(Scaled(1.0), model, *values(2)), Scaled(1.0)(model, *values(2)))
    assert len(Copy.made) == 1


def test_a_cpu_and_a_training_record_nothing(model, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "GraphCache", None)
    for _ in range(3):
        assert torch.equal(run_graphed(Scaled(1.0), model, *values(1)), Scaled(1.0)(model, *values(1)))
        with torch.enable_grad():
            assert run_graphed(Scaled(1.0), model, *values(1)).requires_grad
