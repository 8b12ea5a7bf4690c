import torch

from components.models.layers.attention import Attention, KeyValueCache, frame_causal, merge_heads


def layer() -> Attention:
    torch.manual_seed(0)
    return Attention(12, 3)


def test_a_token_sees_its_own_frame_and_those_before() -> None:
    assert frame_causal(3, 2, torch.device("cpu")).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]


def test_attention_is_the_softmax_formula_head_by_head() -> None:
    attention, x = layer(), torch.randn(2, 5, 12)
    queries, keys, values = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for i in range(3):
        part = slice(4 * i, 4 * (i + 1))
        weights = (queries[..., part] @ keys[..., part].transpose(1, 2) / 4**0.5).softmax(-1)
        heads.append(weights @ values[..., part])
    expected = attention.project(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_merging_undoes_the_split_into_heads() -> None:
    qkv = torch.randn(2, 5, 36)
    parts = [merge_heads(head) for head in layer().split_heads(qkv)]
    assert torch.equal(torch.cat(parts, dim=-1), qkv)


def test_attention_does_not_know_the_order_of_its_tokens() -> None:
    attention, x, order = layer(), torch.randn(2, 5, 12), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], atol=1e-5, rtol=1e-5)


def test_what_the_mask_hides_has_no_effect() -> None:
    attention, x, mask = layer(), torch.randn(1, 6, 12), frame_causal(3, 2, torch.device("cpu"))
    changed = x.clone()
    changed[:, 4:] += 1
    assert torch.equal(attention(x, mask)[:, :4], attention(changed, mask)[:, :4])


def test_frame_after_frame_with_a_memory_equals_all_at_once_with_the_mask() -> None:
    attention, x, memory, found = layer(), torch.randn(2, 6, 12), None, []
    for frame in x.split(2, dim=1):
        out, memory = attention.extend(frame, memory)
        found.append(out)
    expected = attention(x, frame_causal(3, 2, torch.device("cpu")))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_a_memory_is_a_value() -> None:
    before = KeyValueCache(torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4))
    keys = before.keys.clone()
    after = before.append(torch.randn(1, 3, 5, 4), torch.randn(1, 3, 5, 4))
    assert torch.equal(before.keys, keys)
    assert torch.equal(after.keys[:, :, :2], keys)
    assert after.keys.shape == after.values.shape == (1, 3, 7, 4)


def test_the_last_tokens_are_the_newest_or_all_there_are() -> None:
    memory = KeyValueCache(torch.arange(5.0).view(1, 1, 5, 1), torch.arange(5.0).view(1, 1, 5, 1))
    assert memory.last(2).keys.flatten().tolist() == [3, 4]
    assert memory.last(2).values.flatten().tolist() == [3, 4]
    assert memory.last(9).keys.flatten().tolist() == [0, 1, 2, 3, 4]
