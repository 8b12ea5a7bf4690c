import pytest
import torch

from components.foundation.errors import InputError
from components.models.canvasmar.spatial_mar import SpatialConfig, SpatialMAR, gather
from components.models.layers.blocks import BLOCKS, BlockKind


def spatial(
    block: BlockKind = "expert_norm", encoder_depth: int = 1, layers: int = 3, local: bool = False
) -> SpatialMAR:
    torch.manual_seed(0)
    config = SpatialConfig(
        width=16, heads=2, layers=layers, norm_first=False, encoder_depth=encoder_depth, block=block, local=local
    )
    return SpatialMAR(config, (3, 4, 4), group=1)


def inputs(visible: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(2, 16, generator=generator).argsort(dim=1)
    tokens, mask_tokens = (torch.randn(2, n, d, generator=generator) for n, d in ((visible, 3), (16, 16)))
    return tokens, order, mask_tokens, torch.randn(2, 4, 16, generator=generator)


def test_gather_takes_each_rows_own_places() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert gather(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("visible", [0, 5, 15])
def test_z_is_there_for_every_token_that_is_not_visible(block: BlockKind, visible: int) -> None:
    z = spatial(block)(*inputs(visible))
    assert z.shape == (2, 16 - visible, 16)
    assert z.isfinite().all()


@pytest.mark.parametrize("block", ["plain", "expert_norm"])
def test_the_encoder_never_sees_mask_tokens(block: BlockKind) -> None:
    """With every block in the encoder nothing is left that could change the mask tokens."""
    model = spatial(block, encoder_depth=3)
    tokens, order, mask_tokens, z_t = inputs(5)
    expected = model.norm(gather(mask_tokens + model.position, order[:, 5:]))
    assert torch.equal(model(tokens, order, mask_tokens, z_t), expected)


def test_z_comes_in_the_order_of_the_places_that_are_left() -> None:
    model = spatial()
    tokens, order, mask_tokens, z_t = inputs(5)
    turned = torch.cat([order[:, :5], order[:, 5:].flip(1)], dim=1)
    z, other = model(tokens, order, mask_tokens, z_t), model(tokens, turned, mask_tokens, z_t)
    torch.testing.assert_close(other, z.flip(1), atol=1e-5, rtol=1e-5)


def test_a_mask_token_stands_at_its_own_place() -> None:
    model = spatial("plain", encoder_depth=3)
    tokens, order, mask_tokens, z_t = inputs(5)
    changed = mask_tokens.clone()
    changed[0, order[0, 9]] += torch.linspace(-1, 1, 16)
    differs = (model(tokens, order, mask_tokens, z_t) != model(tokens, order, changed, z_t)).any(-1)
    assert differs.nonzero().tolist() == [[0, 4]]


def test_mm_dit_freezes_just_what_never_gets_a_gradient() -> None:
    model = spatial("mm_dit")
    model(*inputs(5)).square().sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == idle
    assert {name.split(".")[1] for name in frozen} == {"0", "2"}


@pytest.mark.parametrize("block", ["plain", "expert_norm"])
def test_other_blocks_freeze_nothing(block: BlockKind) -> None:
    assert all(parameter.requires_grad for parameter in spatial(block).parameters())


def test_an_encoder_deeper_than_the_whole_is_refused() -> None:
    with pytest.raises(InputError, match=r"encoder_depth is 4; it must be between 0 and .* 3$"):
        spatial(encoder_depth=4)


def test_local_convolutions_see_every_token_at_its_place_in_the_grid() -> None:
    """With blocks that add nothing z is what the convolutions make of the whole grid."""
    model = spatial("plain", local=True)
    for block in model.blocks:
        for norm in (block.get_submodule("norm1"), block.get_submodule("norm2")):
            torch.nn.init.zeros_(norm.get_parameter("weight"))
    tokens, order, mask_tokens, z_t = inputs(5)
    grid = (mask_tokens + model.position).clone()
    for row in range(2):
        grid[row, order[row, :5]] = model.embed(tokens[row]) + model.position[order[row, :5]]
    for local in model.local:
        grid = local(grid)
    expected = gather(model.norm(grid), order[:, 5:])
    torch.testing.assert_close(model(tokens, order, mask_tokens, z_t), expected, atol=1e-5, rtol=1e-5)
    assert len(model.local) == 2  # one before each block that sees all tokens


@pytest.mark.parametrize("block", BLOCKS)
def test_with_local_convolutions_the_order_of_the_visible_tokens_does_not_matter(block: BlockKind) -> None:
    model = spatial(block, local=True)
    tokens, order, mask_tokens, z_t = inputs(5)
    turned = torch.cat([order[:, :5].flip(1), order[:, 5:]], dim=1)
    z, other = model(tokens, order, mask_tokens, z_t), model(tokens.flip(1), turned, mask_tokens, z_t)
    torch.testing.assert_close(other, z, atol=1e-5, rtol=1e-5)
