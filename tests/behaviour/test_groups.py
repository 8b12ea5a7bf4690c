"""Claims about frames that are predicted together (section 5.4, appendix B), and about the first frame of all."""

import pytest
import torch

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.canvasmar.model import CanvasMAR
from components.models.canvasmar.spatial_mar import GroupAttention
from components.sampling.rollout import rollout
from tests.behaviour.conftest import LATENT, tiny_config

CHANCE = Stream.of(0, (0, 1))


def clips(frames: int = 5) -> torch.Tensor:
    return torch.randn(2, frames, *LATENT, generator=torch.Generator().manual_seed(1))


def grown(single: CanvasMAR, group: int) -> CanvasMAR:
    """A model of groups that has the weights of a model of single frames, and is otherwise new."""
    torch.manual_seed(5)
    model = tiny_config(group=group).build().eval()
    missing, unexpected = model.load_state_dict(single.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split(".")[1] for name in missing} == {"frame_heads", "group_attention"}
    return model


def test_a_group_begins_as_the_model_of_single_frames(model, sampler):
    """The first frame of a group is what the model of single frames samples, but for rounding in a larger batch."""
    group = grown(model, 2)
    (alone,) = rollout(model, clips(2), 1, CHANCE, sampler)
    first, second = rollout(group, clips(2), 2, CHANCE, sampler)
    torch.testing.assert_close(first.latent, alone.latent, atol=1e-5, rtol=1e-5)
    assert torch.equal(first.canvas, alone.canvas)
    assert torch.equal(second.canvas, alone.canvas)  # the same guess; its tokens are drawn anew
    assert not torch.allclose(second.latent, alone.latent)


NEW = ("canvas.frame_heads", "spatial.group_attention")  # as recipe.new_weights names them


def test_a_group_begins_with_the_weights_file_of_the_model_of_single_frames(model, sampler, tmp_path):
    checkpoint.save_weights(tmp_path / "single.safetensors", model.state_dict())
    group = tiny_config(group=2).build().eval()
    fresh = checkpoint.begin_with(tmp_path / "single.safetensors", group, NEW)
    assert {name.rpartition(".")[0] for name in fresh} >= {"canvas.frame_heads.1.fc1", "spatial.group_attention.3.norm"}
    (alone,) = rollout(model, clips(2), 1, CHANCE, sampler)
    first, _ = rollout(group, clips(2), 2, CHANCE, sampler)
    torch.testing.assert_close(first.latent, alone.latent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("single", "new", "words"),
    [
        ({"canvas": False}, NEW, "it lacks canvas.blocks"),
        ({"block": "plain"}, NEW, "has another shape of spatial.blocks"),
        ({}, ("spatial.group_attention",), r"it lacks canvas.frame_heads.* list the prefixes .* in recipe.new_weights"),
        ({"group": 3}, NEW, "it has the unknown canvas.frame_heads.2"),
    ],
)
def test_weights_that_no_group_can_begin_with_are_told_in_one_sentence(make, tmp_path, single, new, words):
    path = tmp_path / "single.safetensors"
    checkpoint.save_weights(path, make(**single).state_dict())
    with pytest.raises(InputError, match=words):
        checkpoint.begin_with(path, tiny_config(group=2).build(), new)


def test_what_attends_between_frames_adds_nothing_before_training():
    attention = GroupAttention(16, 2, 3)
    x = torch.randn(6, 5, 16)
    assert torch.equal(attention(x), x)


def test_a_trained_group_attends_between_its_frames_and_to_no_other_group(make, sampler):
    attention = make(group=2).spatial.group_attention["3"]
    x = torch.randn(4, 5, 16)
    changed = x.clone()
    changed[0, 2] += 1
    moved = (attention(x) != attention(changed)).any(-1)
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[:2, 2] = True
    assert torch.equal(moved, expected)


def test_a_rows_order_of_tokens_does_not_change_what_a_group_makes_of_them(make):
    """The frames of a group attend place by place, wherever each row has put the place's token."""
    model = make(group=2).spatial
    generator = torch.Generator().manual_seed(3)
    z_t, masks = torch.randn(4, 4, 16, generator=generator), torch.randn(4, 16, 16, generator=generator)
    x = torch.randn(4, 6, 3, generator=generator)
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(4)])
    shuffle = torch.randperm(10, generator=generator)
    other = torch.cat([order[:, :6], order[:, 6:][:, shuffle]], dim=1)
    torch.testing.assert_close(model(x, order, masks, z_t)[:, shuffle], model(x, other, masks, z_t))


def test_a_group_does_not_see_its_own_frames_or_later_ones(make):
    model = make(group=2)
    latents = clips()
    changed = latents.clone()
    changed[:, 3:] += 1  # the second group
    draws = model.draw(latents, CHANCE)
    told = []
    losses = model.canvas.losses
    model.canvas.losses = lambda z_c, canvas, x: told.append(z_c) or losses(z_c, canvas, x)
    model(latents, draws)
    model(changed, draws)
    assert torch.equal(told[0], told[1])
    assert told[0].shape == (2 * 4, 16, 16)


def test_a_rollout_of_groups_may_end_within_a_group(make, sampler):
    model = make(group=2)
    three = list(rollout(model, clips(2), 3, CHANCE, sampler))
    four = list(rollout(model, clips(2), 4, CHANCE, sampler))
    assert [torch.equal(a.latent, b.latent) for a, b in zip(three, four, strict=False)] == [True] * 3
    for frame in four:
        assert frame.latent.shape == frame.canvas.shape == (2, *LATENT)
        assert frame.order.shape == frame.staticness.shape == (2, 16)


def test_a_rollout_of_groups_equals_starting_again_with_all_frames(make, sampler):
    model = make(group=2)
    steps = list(rollout(model, clips(2), 4, CHANCE, sampler))
    longer = torch.cat([clips(2), steps[0].latent[:, None], steps[1].latent[:, None]], dim=1)
    from components.sampling.frame import sample_frames

    with torch.no_grad():
        again = sample_frames(model, model.remember(longer, None), CHANCE.fork("frame", 2), sampler)
    torch.testing.assert_close(again[1].latent, steps[3].latent, atol=1e-4, rtol=1e-4)


def test_clips_that_are_no_whole_groups_are_told_in_one_sentence(make):
    with pytest.raises(InputError, match=r"1 \+ a multiple of 2"):
        make(group=2).draw(clips(4), CHANCE)


@pytest.mark.parametrize("block", ["plain", "expert_norm", "mm_dit"])
def test_every_weight_of_a_model_of_groups_is_trained(block):
    torch.manual_seed(0)
    model = tiny_config(group=2, block=block).build()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    latents = clips()
    model(latents, model.draw(latents, CHANCE)).total.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing in ([], ["no_history"], ["mask_token"], ["mask_token", "no_history"])  # as the drops fall


def test_the_first_frame_is_learned_from_nothing_and_leaves_the_others_as_they_are(make):
    model = make(first_frame=True)
    latents = clips()
    draws = model.draw(latents, CHANCE)
    assert draws.order.shape == (2, 5, 16)
    losses = model(latents, draws)
    assert set(losses.terms) == {"flow", "first_flow", "canvas", "static"}
    changed = latents.clone()
    changed[:, 0] += 1
    other = model(changed, draws)
    assert losses.terms["first_flow"] != other.terms["first_flow"]
    later = latents.clone()
    later[:, 1:] += 1
    assert torch.equal(model(later, draws).terms["first_flow"], losses.terms["first_flow"])


def test_the_first_frame_comes_alone():
    with pytest.raises(InputError, match=r"first_frame needs model\.group 1, not 2"):
        tiny_config(group=2, first_frame=True).build()
