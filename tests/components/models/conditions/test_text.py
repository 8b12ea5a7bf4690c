"""Hidden states of a tiny, randomly initialised Qwen2 that lies in a folder, and from its captions to a video."""

import pytest
import torch

from components.datasets import captions, conditions
from components.datasets.conditions import ConditionKey, Conditions
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.models.conditions.interface import ConditionedClips
from components.models.conditions.predictors import CaptionConditioned
from components.models.conditions.text import TextEncoder, TextEncoderConfig
from components.sampling.rollout import rollout
from tests.behaviour.families import clips, first, opened
from tests.tiny_text import write_qwen2

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_qwen2(tmp_path_factory.mktemp("qwen2"))


def encoder(folder, tokens=12):
    return TextEncoder(TextEncoderConfig(encoder=str(folder), tokens=tokens), "cpu")


def test_a_text_is_its_hidden_states_with_zeros_behind_its_end_whatever_stands_beside_it(folder):
    encode = encoder(folder)
    found = encode(["a robot", "a robot arm pushes a cube", ""])
    assert found.shape == (3, 12, 16)
    assert found.any(-1).sum(1).tolist() == [len("a robot"), 12, 0]
    assert found[0, : len("a robot")].any(-1).all()
    assert torch.equal(found[0], encode(["a robot"])[0])
    torch.testing.assert_close(found[0, :7], found[1, :7])  # the encoder is causal: a longer text begins alike
    assert not torch.allclose(encode(["a cube lifts"]), encode(["a robot lifts"]))


def test_another_encoder_or_length_has_another_identity(folder):
    assert encoder(folder).identity == encoder(folder).identity
    assert encoder(folder).identity != encoder(folder, tokens=3).identity
    changed = encoder(folder)
    next(changed.model.parameters()).add_(1)
    assert changed.identity != encoder(folder).identity


def test_captions_beside_videos_become_a_condition_that_changes_the_prediction(folder, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("video,caption\na.mp4,a robot arm pushes a cube\nb.mp4,a cube lifts\n", encoding="utf-8")
    told, encode = captions.read(path, {"a.mp4", "b.mp4"}, set()), encoder(folder)
    key = ConditionKey(annotations="w", encoder=encode.identity)
    conditions.write(tmp_path / "out", {"train": list(told.values()), "val": [], "test": []}, encode, key)
    given = Conditions.open(tmp_path / "out", "train", key).read([0, 1])
    model = opened(
        "videomar", condition={"kind": "text", "encoder": str(folder), "tokens": 12, "numbers": 16, "drop": 0.1}
    )
    both, chance = ConditionedClips(clips(2), given), Stream.of(0, (0, 1))
    assert torch.isfinite(model(both, model.draw(both, chance)).total)
    from tests.pipeline.test_presets import Row

    sampler = Row("compare", "videomar").sampler.model_copy(update={"sets": 2, "flow_steps": 2, "temporal_scale": 3.0})
    a, b = (first(CaptionConditioned(model, text), both.latents[:, :2], sampler) for text in (given, given.flip(0)))
    assert not torch.allclose(a, b)
    assert len(list(rollout(CaptionConditioned(model, given), both.latents[:, :1], 2, chance, sampler))) == 2


def test_what_is_no_encoder_is_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="is not a text encoder"):
        TextEncoder(TextEncoderConfig(encoder=str(tmp_path), tokens=12), "cpu")
