import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.nn.conv3d import (
    TAPS,
    CausalTimeConv,
    ChannelNorm,
    Downsample,
    FrameConv,
    ResidualBlock,
    Upsample,
    fold_blocks,
    unfold_blocks,
)


def videos(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def awake(block: ResidualBlock) -> ResidualBlock:
    """The block with a last convolution that does something."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return block


@pytest.mark.parametrize("time", [1, 2, 4])
@pytest.mark.parametrize("space", [1, 2, 8])
def test_split_undoes_merge(time: int, space: int) -> None:
    x = videos(2, 1 + 2 * time, 3, 8, 16)
    assert torch.equal(unfold_blocks(fold_blocks(x, time, space), time, space), x)


def test_merge_makes_the_first_frame_a_block_of_its_own() -> None:
    x = videos(1, 5, 3, 4, 4)
    merged = fold_blocks(x, 2, 2)
    assert merged.shape == (1, 3, 2 * 2 * 2 * 3, 2, 2)
    assert torch.equal(merged[:, 0], fold_blocks(x[:, :1].expand(-1, 3, -1, -1, -1), 2, 2)[:, 1])
    changed = x.clone()
    changed[:, 1:] = 0
    assert torch.equal(fold_blocks(changed, 2, 2)[:, 0], merged[:, 0])


def test_a_merged_pixel_holds_exactly_the_square_that_it_stands_for() -> None:
    x = videos(1, 1, 3, 8, 8)
    assert set(fold_blocks(x, 1, 4)[0, 0, :, 1, 0].tolist()) == set(x[0, 0, :, 4:, :4].flatten().tolist())


def test_the_temporal_convolution_is_the_dense_one_with_the_first_frame_repeated_before_it() -> None:
    conv, x = CausalTimeConv(4, 5), videos(2, 6, 4, 3, 3)
    padded = F.pad(x.transpose(1, 2), (0, 0, 0, 0, TAPS - 1, 0), mode="replicate")
    dense = F.conv3d(padded, conv.conv.weight[..., None], conv.conv.bias).transpose(1, 2)
    assert torch.allclose(conv(x), dense, atol=1e-6)


def test_a_block_keeps_a_still_video_still() -> None:
    y = awake(ResidualBlock(8))(videos(2, 1, 8, 4, 4).expand(-1, 6, -1, -1, -1))
    assert torch.allclose(y, y[:, :1].expand_as(y), atol=1e-6)


def test_the_frame_convolution_is_the_same_for_a_frame_alone() -> None:
    conv, x = FrameConv(4, 5, 3), videos(2, 6, 4, 7, 5)
    assert torch.allclose(conv(x)[:, 2:3], conv(x[:, 2:3]), atol=1e-6)


def test_a_block_starts_as_the_identity() -> None:
    x = videos(2, 4, 8, 4, 4)
    assert torch.equal(ResidualBlock(8)(x), x)


def test_no_frame_of_a_block_knows_of_a_later_one() -> None:
    block, x = awake(ResidualBlock(8)), videos(2, 6, 8, 4, 4)
    later = x.clone()
    later[:, 3:] += 1
    assert torch.equal(block(later)[:, :3], block(x)[:, :3])
    assert (block(later)[:, 3] != block(x)[:, 3]).any()


def test_a_block_sees_exactly_its_taps() -> None:
    block, x = awake(ResidualBlock(8)), videos(1, 6, 8, 4, 4)
    first = x.clone()
    first[:, 0] += 1
    changed = (block(first) != block(x)).flatten(2).any(dim=2)[0]
    assert changed.tolist() == [True] * TAPS + [False] * (6 - TAPS)


def test_the_norm_looks_at_one_pixel() -> None:
    norm, x = ChannelNorm(8), videos(1, 2, 8, 3, 3)
    y = norm(x)
    assert torch.allclose(y.mean(dim=2), torch.zeros(1, 2, 3, 3), atol=1e-6)
    x[0, 0, :, 0, 0] += torch.arange(8.0)
    assert (norm(x) != y).any(dim=2).sum() == 1


def test_down_halves_the_sides_and_up_doubles_them() -> None:
    assert Downsample(4, 6)(videos(1, 2, 4, 8, 4)).shape == (1, 2, 6, 4, 2)
    assert Upsample(6, 4)(videos(1, 2, 6, 4, 2)).shape == (1, 2, 4, 8, 4)


@pytest.mark.parametrize(
    "layer", [ResidualBlock(8), Downsample(8, 8), Upsample(8, 8), FrameConv(8, 8, 3), CausalTimeConv(8, 8)]
)
def test_channels_stay_last_in_memory(layer: nn.Module) -> None:
    """The speed on a CPU hangs on it."""
    x = videos(2, 3, 4, 4, 8).permute(0, 1, 4, 2, 3)
    assert layer(x).permute(0, 1, 3, 4, 2).is_contiguous()
