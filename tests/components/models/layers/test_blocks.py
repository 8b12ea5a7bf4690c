import math

import pytest
import torch
from torch import nn

from components.foundation.errors import InputError
from components.models.layers.attention import frame_causal
from components.models.layers.blocks import (
    BLOCKS,
    ExpertNorm,
    ExpertNormBlock,
    LocalConvolution,
    MMDiTBlock,
    PlainBlock,
    ViTConfig,
    initialise,
)

SMALL = ViTConfig(width=16, heads=2, layers=1, norm_first=False)
SEGMENTS = (2, 3, 4)


def block(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return BLOCKS[kind](SMALL)


def x() -> torch.Tensor:
    return torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("width", "heads", "parameters"), [(768, 12, 7_087_872), (1024, 16, 12_596_224)])
def test_a_plain_block_has_as_many_parameters_as_novas(width: int, heads: int, parameters: int) -> None:
    config = ViTConfig(width=width, heads=heads, layers=1, norm_first=False)
    with torch.device("meta"):
        plain, expert, two_streams = PlainBlock(config), ExpertNormBlock(config), MMDiTBlock(config)
    assert count(plain) == parameters
    assert count(expert) == parameters + 2 * 2 * 2 * width  # two norms, two more kinds, scale and shift
    assert count(two_streams) == 2 * parameters


def test_the_norm_stands_after_the_sublayer_inside_the_residual() -> None:
    plain = block("plain")
    assert isinstance(plain, PlainBlock)
    middle = x() + plain.norm1(plain.attention(x()))
    expected = middle + plain.norm2(plain.mlp(middle))
    assert torch.equal(plain(x(), SEGMENTS), expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("first", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_tokens_from_one_on_are_those_of_the_whole_sequence(kind: str, first: int, norm_first: bool) -> None:
    torch.manual_seed(0)
    module = BLOCKS[kind](SMALL.model_copy(update={"norm_first": norm_first}))
    for weight in module.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # the norms of each kind of token differ
    torch.testing.assert_close(module(x(), SEGMENTS, first=first), module(x(), SEGMENTS)[:, first:])


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_lets_every_kind_of_token_see_every_other(kind: str) -> None:
    module, places = block(kind), (0, 3, 8)
    before = module(x(), SEGMENTS)
    for place in places:
        changed = x()
        changed[:, place] += 1
        assert (module(changed, SEGMENTS) != before).any(-1).all()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("segments", [(2, 0, 7), (2, 7, 0), (9, 0, 0), (0, 0, 9)])
def test_a_kind_of_token_may_be_missing(kind: str, segments: tuple[int, int, int]) -> None:
    assert block(kind)(x(), segments).isfinite().all()


def test_each_kind_of_token_has_its_own_scale_and_shift() -> None:
    norm = ExpertNorm(16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = norm(x(), SEGMENTS).split(SEGMENTS, dim=1)
    for i, (part, before) in enumerate(zip(parts, x().split(SEGMENTS, dim=1), strict=True)):
        expected = nn.functional.layer_norm(before, (16,)) * norm.weight[i] + norm.bias[i]
        torch.testing.assert_close(part, expected)


def test_fresh_experts_make_the_plain_block() -> None:
    plain, expert = block("plain"), block("expert_norm")
    weights = {name: tensor for name, tensor in plain.state_dict().items() if not name.startswith("norm")}
    missing = expert.load_state_dict(weights, strict=False)
    assert set(missing.missing_keys) == {f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    torch.testing.assert_close(expert(x(), SEGMENTS), plain(x(), SEGMENTS))


def test_two_equal_streams_are_the_plain_block() -> None:
    plain, double = block("plain"), block("mm_dit")
    assert isinstance(double, MMDiTBlock)
    double.clean.load_state_dict(plain.state_dict())
    double.masked.load_state_dict(plain.state_dict())
    torch.testing.assert_close(double(x(), SEGMENTS), plain(x(), SEGMENTS))


def test_condition_and_clean_tokens_go_through_one_stream_and_mask_tokens_through_the_other() -> None:
    double = block("mm_dit")
    assert isinstance(double, MMDiTBlock)
    before = double(x(), SEGMENTS)
    nn.init.zeros_(double.masked.norm2.weight)
    after = double(x(), SEGMENTS)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()


def test_without_mask_tokens_their_stream_is_not_run() -> None:
    double = block("mm_dit")
    assert isinstance(double, MMDiTBlock)
    double(x(), (2, 7, 0)).sum().backward()
    assert all(parameter.grad is None for parameter in double.masked.parameters())
    assert all(parameter.grad is not None for parameter in double.clean.parameters())


def test_a_block_with_a_memory_equals_the_block_with_the_frame_causal_mask() -> None:
    plain, tokens, memory, found = block("plain"), x()[:, :8], None, []
    assert isinstance(plain, PlainBlock)
    for frame in tokens.split(2, dim=1):
        out, memory = plain.extend(frame, memory)
        found.append(out)
    expected = plain(tokens, (8, 0, 0), frame_causal(4, 2, torch.device("cpu")))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (12, 2), (18, 1)])
def test_a_width_that_heads_or_positions_do_not_divide_is_refused(width: int, heads: int) -> None:
    with pytest.raises(InputError, match=rf"model.spatial: width {width} is not a multiple of 4 x {heads} heads"):
        ViTConfig(width=width, heads=heads, layers=1, norm_first=False).check("model.spatial")


def test_linear_layers_begin_xavier_uniform_and_without_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.LayerNorm(40), nn.Sequential(nn.Linear(40, 20, bias=False)))
    initialise(model)
    linear = model.get_parameter("0.weight")
    assert not model.get_parameter("0.bias").any()
    bound = math.sqrt(6 / 100)
    assert linear.abs().max().item() <= bound
    assert linear.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert model.get_parameter("2.0.weight").abs().max().item() <= math.sqrt(6 / 60)


def local() -> LocalConvolution:
    torch.manual_seed(0)
    module = LocalConvolution(5, (3, 4))
    nn.init.normal_(module.get_parameter("conv.bias"))
    return module


def test_local_adds_a_convolution_of_each_channel_with_its_own_three_by_three_weights() -> None:
    module, x = local(), torch.randn(2, 12, 5)
    weight, bias = module.get_parameter("conv.weight"), module.get_parameter("conv.bias")
    expected = x + bias
    for row, column, down, right in torch.cartesian_prod(*(torch.arange(n) for n in (3, 4, 3, 3))).tolist():
        other = row + down - 1, column + right - 1
        if 0 <= other[0] < 3 and 0 <= other[1] < 4:
            expected[:, 4 * row + column] += weight[:, 0, down, right] * x[:, 4 * other[0] + other[1]]
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=1e-5)


def test_local_shows_a_token_to_itself_and_its_eight_neighbours_only() -> None:
    module, x = local(), torch.randn(1, 12, 5)
    for place in range(12):
        changed = x.clone()
        changed[:, place] += 1
        seen = (module(changed) != module(x)).any(-1)[0].view(3, 4)
        row, column = divmod(place, 4)
        near = torch.zeros(3, 4, dtype=torch.bool)
        near[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
        assert torch.equal(seen, near)
