import pytest
import torch

from components.models.layers import embeddings

CPU = torch.device("cpu")


def test_the_grid_counts_frames_then_rows_then_columns() -> None:
    grid = embeddings.grid(3, 2, 2, 2, CPU)
    assert grid[0].tolist() == [[3, 0, 0], [3, 0, 1], [3, 1, 0], [3, 1, 1]]
    assert grid[1, 0].tolist() == [4, 0, 0]


@pytest.mark.parametrize("dimension", [8, 12, 16, 32, 64])
def test_every_pair_of_a_head_gets_one_angle_and_every_axis_at_least_one_pair(dimension: int) -> None:
    assert embeddings.angles(torch.zeros(5, 3), dimension).shape == (5, dimension // 2)
    for axis in range(3):
        assert embeddings.angles(torch.eye(3)[axis : axis + 1], dimension).any()


def test_a_head_of_64_is_shared_as_in_nova() -> None:
    counts = [int(embeddings.angles(torch.eye(3)[axis : axis + 1], 64).count_nonzero()) for axis in range(3)]
    assert counts == [4, 14, 14]


def test_scores_depend_on_how_far_two_tokens_lie_apart_and_on_no_place() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at: list[float], other: list[float]) -> float:
        turned = [
            embeddings.rotate(x, embeddings.angles(torch.tensor([place]).float(), 16))
            for x, place in ((query, at), (key, other))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score([1, 2, 3], [0, 4, 3]) == pytest.approx(score([21, 12, 7], [20, 14, 7]), abs=1e-4)
    assert score([1, 2, 3], [0, 4, 3]) != pytest.approx(score([1, 2, 3], [0, 4, 4]), abs=1e-4)


def test_turning_keeps_lengths_and_position_zero_changes_nothing() -> None:
    x = torch.randn(2, 3, 4, 16)
    turned = embeddings.rotate(x, embeddings.angles(torch.randn(4, 3), 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(embeddings.rotate(x, torch.zeros(4, 8)), x)
