"""Actions on their way to a model: from the cached latents to the training, and from a user to the prediction."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from components.datasets import actions, latents, shards
from components.datasets.annotations import NONE, Annotations
from components.datasets.conditions import Conditions
from components.datasets.latents import LatentsManifest
from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.metrics.distances.fvd import ProtocolConfig
from components.models.conditions import encoders
from components.models.conditions.encoders import ActionEncoder
from components.models.conditions.interface import ActionConfig, ActionScale, ConditionedClips
from components.models.conditions.predictors import ActionConditioned, CaptionConditioned
from components.models.latent_training import TrainingSource
from components.nn.autoencoders import serialization as autoencoders
from components.sampling import batches
from components.sampling import predictor as predictors
from pipeline.commands import predict
from pipeline.commands.video_predictor import VideoPredictor
from pipeline.runtime import ray_map
from tests.behaviour.conftest import tiny_config
from tests.behaviour.families import opened
from tests.behaviour.test_captions import TEXT
from tests.pipeline.parts import tables
from tests.pipeline.untrained import build, write_latents

CPU = torch.device("cpu")
CLIP = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
GIVEN = torch.randn(2, 13, 2, generator=torch.Generator().manual_seed(2))
SCALE = ActionScale(columns=("x", "y"), mean=(0.5, 0.0), std=(2.0, 1.0))


class Asking(Config):
    """What is known of a model that asks for actions."""

    latent: tuple[int, int, int]
    condition: ActionConfig


def asking(numbers: int = 4, drop: float = 0.1) -> Asking:
    return Asking(latent=(4, 4, 4), condition=ActionConfig(kind="action", numbers=numbers, drop=drop))


@dataclasses.dataclass
class Named:
    """What a folder says of its weights, as far as a prediction asks."""

    model: Asking
    actions: ActionScale
    encoder: str
    mean: tuple[float, ...] = (0.1,) * 4
    std: tuple[float, ...] = (0.9,) * 4


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Latents of 16 clips of five latent frames with their actions, and the VAE, whose stride is 2."""
    monkeypatch.chdir(tmp_path)
    write_latents(tmp_path / "latents", tmp_path / "vae")
    return tmp_path


def annotated(place) -> actions.Stored:
    draw = torch.Generator().manual_seed(0)
    rows = {split: torch.randn(count, 9, 2, generator=draw) * 3 + 1 for split, count in COUNTS.items()}
    stored = actions.Stored(("x", "y"), rows)
    manifest = shards.read_manifest(LatentsManifest, place / "latents")
    files = {**manifest.files, **actions.write(place / "latents", stored)}
    shards.write_manifest(place / "latents", manifest.model_copy(update={"files": files}))
    return stored


COUNTS = {"train": 16, "val": 16, "test": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untrained"))


@pytest.fixture
def predictor(folder, monkeypatch):
    """A predictor whose model is said to ask for actions, which a double of it takes down."""
    loaded = VideoPredictor.open(folder, "kuka-canvasmar", "cpu")
    model = asking()
    encode = ActionEncoder(model.condition, SCALE, loaded.vae)
    loaded.description = Named(model, SCALE, encode.identity)
    loaded.seen = []

    class Double:
        """The model as it is."""

        def __init__(self, model, rows):
            loaded.seen.append(rows)
            self._model = model

        def __getattr__(self, name):
            return getattr(self._model, name)

    monkeypatch.setattr(predictors, "ActionConditioned", Double)
    return loaded


def test_a_vector_holds_the_actions_of_the_pixel_frames_between_two_latent_frames(place):
    vae = autoencoders.load(place / "vae", CPU)
    encode = ActionEncoder(asking().condition, SCALE, vae)
    found = encode(GIVEN)
    assert found.shape == (2, 6, 4)
    scaled = (GIVEN - torch.tensor([0.5, 0.0])) / torch.tensor([2.0, 1.0])
    for row in range(6):
        torch.testing.assert_close(found[:, row], scaled[:, 2 * row : 2 * row + 2].flatten(1))
    torch.testing.assert_close(encode(GIVEN[:, :4]), found[:, :1])  # frame 4 is not there
    with pytest.raises(InputError, match="numbers is 6, but a latent frame of 2 pixel frames with 2 action columns"):
        ActionEncoder(asking(6).condition, SCALE, vae)
    with pytest.raises(InputError, match="too few for a second latent frame; give actions for at least 3"):
        encode(GIVEN[:, :2])
    with pytest.raises(InputError, match=r"actions have 1 columns, but the model was trained with 2 \(x, y\)"):
        encode(GIVEN[..., :1])
    other = ActionEncoder(asking().condition, SCALE.model_copy(update={"mean": (0.5, 0.1)}), vae)
    assert encode.identity == ActionEncoder(asking().condition, SCALE, vae).identity != other.identity


def test_a_training_reads_the_standardised_actions_of_its_clips_and_a_phase_those_of_its_frames(place):
    stored, model = annotated(place), asking()
    prepared = encoders.prepare(model, place / "latents", place / "vae", CPU)
    assert encoders.prepare(model, place / "latents", place / "vae", CPU) == prepared
    scale = encoders.scale_of(model, place / "latents")
    assert scale == ActionScale.fit(("x", "y"), stored.splits["train"])
    encode = ActionEncoder(model.condition, scale, autoencoders.load(place / "vae", CPU))
    assert Conditions.open(prepared, "train", None).key.encoder == encode.identity
    for name in ("train", "val"):
        split = TrainingSource(place / "latents", prepared).open(name)
        read, chance = split.read([3, 0]), Stream.of(0, (3, 0))
        whole = split.batch(read, chance)
        assert isinstance(whole, ConditionedClips)
        assert (whole.latents.shape[:2], whole.condition.shape) == ((2, 5), (2, 4, 4))
        torch.testing.assert_close(whole.condition, encode(stored.splits[name][[3, 0]]))
        part = split.batch(read, chance, 3)
        assert torch.equal(part.latents, whole.latents[:, :3])
        assert torch.equal(part.condition, whole.condition[:, :2])


def test_clips_without_actions_and_numbers_that_do_not_fit_are_told_in_one_sentence(place):
    for ask in (
        lambda: encoders.prepare(asking(), place / "latents", place / "vae", CPU),
        lambda: encoders.scale_of(asking(), place / "latents"),
    ):
        with pytest.raises(InputError, match=r"needs actions, but the clips of .* have none; set datasets"):
            ask()
    annotated(place)
    with pytest.raises(InputError, match=r"model\.condition\.numbers is 3, .* has 4 values; set it to 4"):
        encoders.prepare(asking(3), place / "latents", place / "vae", CPU)


def test_the_latents_with_other_actions_are_other_latents(place):
    before = latents.Latents.open(place / "latents", "train", None).hash
    annotated(place)
    assert latents.Latents.open(place / "latents", "train", None).hash != before


def test_the_kind_of_condition_says_how_a_model_is_put_under_it():
    model, rows = opened("videomar", condition=TEXT), torch.zeros(2, 5, 6)
    assert isinstance(predictors.conditioned(model, model.config, rows), CaptionConditioned)
    steered = tiny_config(condition=asking(6).condition).build()
    assert isinstance(predictors.conditioned(steered, steered.config, rows), ActionConditioned)


def test_a_prediction_is_under_the_standardised_actions_of_context_and_predicted_frames(predictor, monkeypatch):
    context, stream = CLIP.expand(2, -1, -1, -1, -1), Stream.of(0, (0, 1))
    predictor.predict(context, 4, stream, predictor.sampler, Annotations(None, GIVEN))
    (rows,) = predictor.seen
    torch.testing.assert_close(rows[:, :4], predictor.encoder(GIVEN)[:, :4])
    predictor.canvases(context, 1, stream, predictor.sampler, Annotations(None, GIVEN))
    torch.testing.assert_close(predictor.seen[1][:, :2], rows[:, :2])
    several = Annotations(None, GIVEN)
    monkeypatch.setattr(batches, "BATCH", 1)
    list(batches.predict_batches(predictor, context, 4, 0, predictor.sampler, several))
    torch.testing.assert_close(torch.cat(predictor.seen[2:]), rows)


def test_the_last_action_is_not_needed_and_frames_that_are_not_asked_for_need_none(predictor):
    """Ten frames are rounded up to eleven; the actions of the first nine lead to the tenth."""
    nine = Annotations(None, GIVEN[:, :9])
    assert predictor.extend_actions(nine, 10).actions.shape[1] >= 11
    assert torch.equal(predictor.extend_actions(nine, 10).actions[:, :9], nine.actions)
    with pytest.raises(
        InputError, match=r"actions for 9 frames, but 11 frames of context .* need actions for the first 10"
    ):
        predictor.extend_actions(nine, 11)


def test_without_actions_the_model_predicts_as_it_was_trained_without_or_not_at_all(predictor):
    assert predictor.conditioned_on(NONE) is predictor.model
    assert predictor.conditioned_on(Annotations(["words"], None)) is predictor.model
    predictor.description.model = asking(drop=0.0)
    with pytest.raises(InputError, match=r"trained with condition\.drop 0; give the actions of the frames"):
        predictor.conditioned_on(NONE)


def test_predictions_of_many_contexts_repeat_the_actions_for_every_future(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 3)
    chosen = tables()["protocols"]["kuka"] | {"samples": 2, "frames": 9}
    protocol = parse(ProtocolConfig, chosen, where="protocol")
    job = batches.PredictionJob(protocol, predictor.sampler, tmp_path)
    context = CLIP[:1].expand(2, -1, -1, -1, -1)
    batches.predict(lambda: predictor, context, job, ray_map.INLINE, Annotations(None, GIVEN))
    expected = predictor.encoder(GIVEN.repeat_interleave(2, dim=0)[:, :5])
    torch.testing.assert_close(torch.cat(predictor.seen)[:, :2], expected)


def test_a_user_gives_the_actions_of_context_and_predicted_frames_for_one_or_for_all_futures(predictor):
    table = GIVEN[0].numpy()
    steps = list(predictor.stream(CLIP, frames=4, futures=2, actions=table))
    assert len(steps) == 4
    torch.testing.assert_close(predictor.seen[0][:, :4], predictor.encoder(GIVEN[:1].expand(2, -1, -1))[:, :4])
    list(predictor.stream(CLIP, frames=4, futures=2, actions=GIVEN.numpy()))
    torch.testing.assert_close(predictor.seen[1][:, :4], predictor.encoder(GIVEN)[:, :4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of six frames the last five fit the VAE
        list(predictor.stream(torch.cat([CLIP[:1], CLIP]), frames=4, actions=table))
    torch.testing.assert_close(predictor.seen[2][:, :4], predictor.encoder(GIVEN[:1, 1:])[:, :4])
    for wrong in (table[:, 0], GIVEN.numpy(), np.full_like(table, np.nan), table[:0]):
        with pytest.raises(InputError, match="actions have the shape"):
            predictor.stream(CLIP, frames=4, futures=1, actions=wrong)
    with pytest.raises(InputError, match="actions for 6 frames, but 9 frames"):
        predictor.stream(CLIP, frames=4, actions=table[:6])
    with pytest.raises(InputError, match="without captions or labels"):
        predictor.stream(CLIP, frames=4, words="push")


def test_actions_for_a_model_that_was_trained_without_are_refused(folder):
    plain_one = VideoPredictor.open(folder, "kuka-canvasmar", "cpu")
    with pytest.raises(InputError, match="trained without actions"):
        plain_one.stream(CLIP, frames=4, actions=GIVEN[0].numpy())


def test_the_command_finds_the_actions_of_a_file_by_the_end_of_its_path(predictor, folder, tmp_path):
    path = tmp_path / "a.csv"
    rows = [(name, GIVEN[number].numpy()) for number, name in enumerate(("videos/one.mp4", "other/one.mp4"))]
    actions.write_csv(path, ("x", "y"), rows)
    table = actions.read(path)
    found = predict.find_actions(table, folder / "videos" / "one.mp4", predictor, "kuka-canvasmar", 3, 2)
    assert np.array_equal(found.astype(np.float32), GIVEN[0, 3:].numpy())
    assert predict.find_actions(None, folder / "videos" / "one.mp4", predictor, "kuka-canvasmar", 3, 2) is None
    for name in (f"{folder.absolute()}/videos/one.mp4", "./videos/one.mp4", "videos\\One.MP4"):
        actions.write_csv(path, ("x", "y"), [(name, GIVEN[0].numpy()), rows[1]])
        again = predict.find_actions(
            actions.read(path), folder / "videos" / "one.mp4", predictor, "kuka-canvasmar", 3, 2
        )
        assert np.array_equal(found, again)
    with pytest.raises(InputError, match=r"two\.mp4: .* has no actions for it"):
        predict.find_actions(table, folder / "videos" / "two.mp4", predictor, "kuka-canvasmar", 3, 2)
    actions.write_csv(path, ("y", "x"), rows)
    with pytest.raises(InputError, match="has the columns y, x, but kuka-canvasmar was trained with x, y"):
        predict.find_actions(actions.read(path), folder / "videos" / "one.mp4", predictor, "kuka-canvasmar", 3, 2)
    actions.write_csv(path, ("x", "y"), rows)
    with pytest.raises(InputError, match="context and prediction need them up to frame 102"):
        predict.find_actions(actions.read(path), folder / "videos" / "one.mp4", predictor, "kuka-canvasmar", 3, 100)
