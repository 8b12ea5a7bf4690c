"""Whoever watches a training sees what it makes of a few validation clips, and the training does not notice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from components.foundation.config import parse
from components.foundation.settings import presets
from components.models.latent_training import TrainingSource
from components.training import loop
from components.training.loop import Worker
from pipeline import train
from pipeline.monitoring.previews import CLIPS, KEY, Previews
from pipeline.train import Params
from tests.behaviour.families import KINDS
from tests.pipeline.conftest import ROOT, tiny
from tests.pipeline.untrained import write_latents

SIDE, FRAMES = 32, 9  # pixels, and frames of five latent ones


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_latents(tmp_path / "latents", tmp_path / "vae", clips=4)
    return tmp_path


def fitted(place: Path, model: dict, previews: Previews | None, rank: int = 0) -> dict[str, torch.Tensor]:
    """The weights after six steps, validated after three and six."""
    recipe = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))["recipes"]["model"]
    chosen = parse(Params, {"model": model, "recipe": recipe}, where="here")
    (phase,) = chosen.recipe.resolved_phases()
    worker = Worker(rank, 1 + rank, torch.device("cpu"), nn.Identity())
    training, data = train.make(chosen.model, phase, TrainingSource(place / "latents", None), None, previews, worker)
    for _ in loop.fit(training, data):
        pass
    return training.weights()


def canvas() -> dict:
    return tiny(presets.read(ROOT / "presets" / "kuka.yaml"))["models"]["canvas"]


def test_after_each_validation_a_few_clips_are_continued_from_their_first_frame(place):
    fitted(place, canvas(), Previews(place / "pictures", place / "vae", 40))
    assert sorted(path.name for path in (place / "pictures").iterdir()) == [
        "step-0000043.mp4", "step-0000043.npy", "step-0000046.mp4", "step-0000046.npy",
    ]  # fmt: skip
    three, six = (np.load(place / "pictures" / f"step-000004{step}.npy") for step in (3, 6))
    assert three.shape == (2 * CLIPS * SIDE, FRAMES * SIDE, 3)
    rows = three.reshape(CLIPS, 2, SIDE, FRAMES, SIDE, 3)
    assert np.array_equal(rows[:, 0, :, 0], rows[:, 1, :, 0])
    assert not np.array_equal(rows[:, 0, :, -1], rows[:, 1, :, -1])
    later = six.reshape(rows.shape)
    assert np.array_equal(later[:, 0], rows[:, 0])
    assert not np.array_equal(later[:, 1], rows[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_shown(place, kind):
    fitted(place, KINDS[kind] | {"latent": [4, 4, 4]}, Previews(place / "pictures", place / "vae", 0))
    assert len(list((place / "pictures").glob("*.mp4"))) == 2


def test_the_weights_are_those_of_a_training_that_nobody_watches(place):
    watched = fitted(place, canvas(), Previews(place / "pictures", place / "vae", 0))
    alone = fitted(place, canvas(), None)
    assert all(torch.equal(watched[name], value) for name, value in alone.items())


def test_the_other_workers_draw_nothing(place):
    fitted(place, canvas(), Previews(place / "pictures", place / "vae", 0), rank=1)
    assert not (place / "pictures").exists()


class Store:
    """A run that is out of reach at first."""

    def __init__(self):
        self.told, self.reached = [], False

    def artifact(self, path, folder):
        self.told += [(path.name, folder)] * self.reached
        return self.reached

    def image(self, picture, key, step):
        self.told += [(picture.shape, key, step)] * self.reached
        return self.reached


def test_the_run_has_film_and_picture_at_the_steps_of_the_whole_training_also_if_it_was_out_of_reach(place):
    previews, store = Previews(place / "pictures", place / "vae", 40), Store()
    fitted(place, canvas(), previews)
    previews.log(3, store)
    assert not store.told
    store.reached = True
    previews.log(2, store)
    assert not store.told
    previews.log(6, store)
    shape = (2 * CLIPS * SIDE, FRAMES * SIDE, 3)
    assert store.told == [("step-0000046.mp4", "validation"), (shape, KEY, 46)]
    previews.close(store)
    assert store.told[2:] == [("step-0000043.mp4", "validation"), (shape, KEY, 43)]
    assert not (place / "pictures").exists()
