import pytest
import torch

from components.foundation.randomness import Stream, derive


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive(0, "videos", 7) == 4906981294036497580  # another number would be other draws in every run
    assert 0 <= derive("x") < 2**63


def test_every_part_and_their_order_matter() -> None:
    seeds = {derive(0, "a", 1), derive(1, "a", 0), derive(0, "a", 2), derive(0, "b", 1), derive(1, "a", 1), derive(0)}
    assert len(seeds) == 6


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_a_sample_draws_the_same_in_any_batch(draw: str) -> None:
    whole = getattr(Stream.of(5, (3, 1, 8)), draw)(4, 2)
    alone = getattr(Stream.of(5, (8,)), draw)(4, 2)
    assert whole.shape == (3, 4, 2)
    assert torch.equal(whole[2:], alone)


def test_asked_twice_a_stream_answers_the_same_whatever_came_between() -> None:
    stream = Stream.of(0, (0, 1))
    first = stream.normal(5)
    torch.rand(7)
    stream.fork("other").normal(9)
    assert torch.equal(stream.normal(5), first)


def test_samples_seeds_and_purposes_all_differ() -> None:
    stream = Stream.of(0, (0, 1))
    rows = [
        *stream.normal(8).unbind(0),
        *stream.fork("a").normal(8).unbind(0),
        *stream.fork("b").normal(8).unbind(0),
        *stream.fork("a", 1).normal(8).unbind(0),
        *stream.fork("a", 2).normal(8).unbind(0),
        *Stream.of(1, (0, 1)).normal(8).unbind(0),
    ]
    for i, row in enumerate(rows):
        assert not any(torch.equal(row, other) for other in rows[:i])


def test_a_fork_of_a_fork_is_the_fork_of_both() -> None:
    stream = Stream.of(0, (0,))
    assert stream.fork("frame", 3) == stream.fork("frame").fork(3)


def test_forking_leaves_the_stream_as_it_is() -> None:
    stream = Stream.of(0, (0,))
    before = stream.normal(3)
    stream.fork("a")
    assert stream.path == ()
    assert torch.equal(stream.normal(3), before)


def test_rows_with_seeds_of_their_own_draw_what_each_draws_alone() -> None:
    together = Stream.of((3, 8), (0, 5)).fork("noise").normal(4)
    assert torch.equal(together[:1], Stream.of(3, (0,)).fork("noise").normal(4))
    assert torch.equal(together[1:], Stream.of(8, (5,)).fork("noise").normal(4))


def test_shared_chance_does_not_depend_on_the_samples() -> None:
    def number(stream: Stream) -> float:
        return torch.rand((), generator=stream.shared()).item()

    mine, yours = Stream.of(0, (0, 1)).fork("ratio"), Stream.of(0, (7,)).fork("ratio")
    assert number(mine) == number(yours)
    assert number(mine) != number(Stream.of(0, (0, 1)).fork("step", 2))
    assert number(mine) != number(Stream.of(1, (0, 1)).fork("ratio"))


def test_normal_numbers_are_normal_and_uniform_ones_uniform() -> None:
    stream = Stream.of(0, range(4))
    normal, uniform = stream.normal(20_000), stream.uniform(20_000)
    torch.testing.assert_close(normal.mean(1), torch.zeros(4), atol=0.03, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(4), atol=0.03, rtol=0)
    torch.testing.assert_close(uniform.mean(1), torch.full((4,), 0.5), atol=0.01, rtol=0)
    assert uniform.min().item() >= 0
    assert uniform.max().item() < 1


def test_draws_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Stream.of(3, range(3)).normal(5)
    assert torch.equal(torch.rand(1), expected)
