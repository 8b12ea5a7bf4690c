"""Actions as a condition: a vector for each transition, scaled as the training clips are."""

import pytest
import torch

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.models.conditions.interface import (
    ActionConfig,
    ActionScale,
    ConditionedClips,
    condition_of,
    condition_shape,
    split_condition,
    zero_clip,
)
from tests.behaviour.families import KINDS, clips, tiny

ACTION = ActionConfig(kind="action", numbers=6, drop=0.1)


class Asking(Config):
    """A model's configuration that asks for actions."""

    condition: ActionConfig | None


def test_actions_are_scaled_by_the_clips_that_they_come_from_and_a_constant_column_becomes_zero():
    actions = torch.randn(7, 9, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.5, 0.0])
    actions += torch.tensor([10.0, -3.0, 0.1])
    scale = ActionScale.fit(("x", "y", "z"), actions)
    scaled = scale.standardise(actions)
    assert scaled.mean((0, 1)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert scaled.std((0, 1), correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    assert not scaled[..., 2].any()
    torch.testing.assert_close(scale.standardise(actions[:1]), scaled[:1])
    assert scale.standardise(torch.full((1, 1, 3), 0.6))[0, 0, 2] == pytest.approx(0.5)  # no number explodes
    with pytest.raises(InputError, match=r"actions have 2 columns, but the model was trained with 3 \(x, y, z\)"):
        scale.standardise(actions[..., :2])


def test_a_clip_has_one_vector_fewer_than_latent_frames():
    assert condition_shape(ACTION, 5) == (4, 6)
    made = zero_clip(Asking(condition=ACTION), (5, 3, 4, 4))
    assert isinstance(made, ConditionedClips)
    assert (made.latents.shape, made.condition.shape) == ((1, 5, 3, 4, 4), (1, 4, 6))
    latents, given = split_condition(ConditionedClips(clips(2, 4), torch.zeros(2, 3, 6)), ACTION)
    assert (len(latents), len(given)) == (2, 2)
    with pytest.raises(InputError, match=r"has 4 vectors of 6 channels, but model\.condition expects 3 vectors of 6"):
        split_condition(ConditionedClips(clips(2, 4), torch.zeros(2, 4, 6)), ACTION)
    with pytest.raises(InputError, match="clips have no captions, labels or actions"):
        split_condition(clips(2, 4), ACTION)
    assert condition_of(Asking(condition=None)) is None


def test_a_model_for_captions_refuses_actions():
    with pytest.raises(InputError, match=r"condition\.kind is 'action'; it must be one of 'label', 'text'"):
        tiny("videomar", condition={"kind": "action", "numbers": 6, "drop": 0.1})
    assert KINDS["videomar"]["condition"] is None


@pytest.mark.parametrize("change", [{"numbers": 0}, {"drop": 1.0}, {"columns": 2}])
def test_a_wrong_choice_is_named(change):
    with pytest.raises(InputError, match=next(iter(change))):
        parse(ActionConfig, {"kind": "action", "numbers": 6, "drop": 0.1, **change}, where="test")
