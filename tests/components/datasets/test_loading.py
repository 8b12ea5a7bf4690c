import itertools
import threading
import time

import pytest

from components.datasets import loading
from components.datasets.loading import ReadAhead
from components.foundation.errors import InputError


def order(steps: range, *, size: int, batch: int, seed: int = 0) -> list[int]:
    return [i for step in steps for i in loading.sample_ids(step, size=size, batch=batch, seed=seed)]


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (7, 7), (9, 2), (1, 1)])
def test_every_epoch_holds_every_sample_once(size, batch):
    samples = order(range(size * 3), size=size, batch=batch)
    epochs = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    assert len(epochs) == 3 * batch
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)


def test_epochs_and_seeds_have_their_own_orders():
    epochs = [tuple(order(range(e, e + 1), size=50, batch=50)) for e in range(4)]
    assert len({*epochs, tuple(order(range(1), size=50, batch=50, seed=1))}) == 5


def test_the_order_of_samples_does_not_depend_on_the_batch():
    assert (
        order(range(20), size=13, batch=3) == order(range(60), size=13, batch=1) == order(range(5), size=13, batch=12)
    )


def test_a_step_is_the_same_asked_first_or_last():
    forward = [loading.sample_ids(step, size=11, batch=4, seed=5) for step in range(30)]
    backward = [loading.sample_ids(step, size=11, batch=4, seed=5) for step in reversed(range(30))]
    assert forward == backward[::-1]


def test_the_order_is_fixed_for_all_time():
    assert loading.sample_ids(0, size=10, batch=10, seed=0) == (3, 1, 7, 2, 9, 0, 8, 5, 4, 6)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 16, 20])
def test_the_ranks_parts_in_order_are_the_batch(world):
    ids = loading.sample_ids(3, size=40, batch=16, seed=2)
    parts = [loading.share(ids, rank, world) for rank in range(world)]
    assert tuple(itertools.chain(*parts)) == ids
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_outside_the_world_is_a_mistake():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        loading.share((1, 2), 2, 2)
    with pytest.raises(ValueError, match="step -1"):
        loading.sample_ids(-1, size=4, batch=2, seed=0)


@pytest.mark.parametrize(
    ("size", "batch", "words"),
    [(0, 1, "the split is empty"), (8, 9, "a batch of 9 cannot be drawn from 8 samples"), (8, 0, "between 1 and 8")],
)
def test_batches_that_cannot_be_drawn_are_refused(size, batch, words):
    with pytest.raises(InputError, match=words):
        loading.sample_ids(0, size=size, batch=batch, seed=0)


def ids(step: int) -> tuple[int, ...]:
    return loading.sample_ids(step, size=9, batch=4, seed=1)


def test_reading_ahead_gives_what_direct_reading_gives():
    with ReadAhead(sum, ids, range(5, 25)) as batches:
        read = [(batch.step, batch.ids, batch.data) for batch in batches]
    assert read == [(step, ids(step), sum(ids(step))) for step in range(5, 25)]


def test_the_next_batch_is_read_while_this_one_is_used():
    started = [threading.Event() for _ in range(3)]

    def read(samples):
        started[samples[0]].set()
        return samples

    with ReadAhead(read, lambda step: (step,), range(3)) as batches:
        next(batches)
        assert started[1].wait(10)
        assert not started[2].wait(0.05)


def test_an_error_surfaces_where_its_batch_would_have_come():
    def read(samples):
        if 7 in samples:
            raise InputError("shard 3 is damaged")
        return samples

    batches = ReadAhead(read, lambda step: (step,), itertools.count(5))
    assert [next(batches).step, next(batches).step] == [5, 6]
    with pytest.raises(InputError, match="shard 3 is damaged"):
        next(batches)
    assert list(batches) == []


def test_closing_stops_the_reading_and_ends_the_thread():
    seen = []

    def read(samples):
        time.sleep(0.01)
        seen.append(samples)

    before = threading.active_count()
    with ReadAhead(read, lambda step: (step,), itertools.count()) as batches:
        next(batches)
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count <= 2
    assert threading.active_count() == before
    assert list(batches) == []
    batches.close()


def test_the_thread_ends_with_the_last_batch():
    before = threading.active_count()
    assert len(list(ReadAhead(len, ids, range(3)))) == 3
    assert threading.active_count() == before
    assert list(ReadAhead(len, ids, range(0))) == []
