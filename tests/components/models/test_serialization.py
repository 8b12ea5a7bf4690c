from pathlib import Path

import pytest
import torch

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.models import serialization
from components.models.canvasmar.model import CanvasMAR
from components.models.serialization import ModelDescription
from tests.behaviour.conftest import tiny_config

CPU = torch.device("cpu")


def stored(folder: Path, *, canvas: bool = True) -> CanvasMAR:
    torch.manual_seed(0)
    config = tiny_config(canvas=canvas)
    model = config.build()
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, model.state_dict())
    description = ModelDescription(
        model=config,
        autoencoder="a1",
        clips="b2",
        encoder=None,
        actions=None,
        mean=(0.0, 0.5, -1.0),
        std=(1.0, 2.0, 3.0),
    )
    checkpoint.describe(folder, description)
    return model


@pytest.mark.parametrize("canvas", [True, False])
def test_a_model_comes_back_with_its_weights_and_with_what_they_belong_to(tmp_path: Path, canvas: bool) -> None:
    written = stored(tmp_path, canvas=canvas)
    model, description = serialization.load(tmp_path, CPU)
    assert model.config == written.config
    assert description.mean == (0.0, 0.5, -1.0)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in written.state_dict().items())


def test_a_loaded_model_is_not_trained_any_more(tmp_path: Path) -> None:
    stored(tmp_path)
    model, _ = serialization.load(tmp_path, CPU)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_does_not_touch_the_weights_that_are_stored(tmp_path: Path) -> None:
    stored(tmp_path)
    before = checkpoint.identity(tmp_path)
    serialization.load(tmp_path, CPU)
    assert checkpoint.identity(tmp_path) == before


def test_weights_without_the_canvas_that_the_description_names_are_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    checkpoint.save_weights(tmp_path / checkpoint.WEIGHTS, tiny_config(canvas=False).build().state_dict())
    with pytest.raises(InputError, match=r"lacks weight canvas\..*another configuration"):
        serialization.load(tmp_path, CPU)


@pytest.mark.parametrize("lost", [checkpoint.WEIGHTS, checkpoint.DESCRIPTION])
def test_half_a_folder_is_no_model(tmp_path: Path, lost: str) -> None:
    stored(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(InputError, match=rf"{lost} does not exist"):
        serialization.load(tmp_path, CPU)


def test_a_description_of_another_version_is_told_by_its_key(tmp_path: Path) -> None:
    stored(tmp_path)
    path = tmp_path / checkpoint.DESCRIPTION
    path.write_text(path.read_text(encoding="utf-8").replace('"drop"', '"dropout"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"unknown key model\.dropout|missing key model\.drop"):
        serialization.load(tmp_path, CPU)
