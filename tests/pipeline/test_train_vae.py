"""A VAE with a linear path begins at the PCA of its training clips, on every worker and at every start."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.datasets.clips import Clips
from components.foundation.config import parse
from components.foundation.errors import InputError
from components.foundation.settings import presets
from components.nn.autoencoders.folded import FoldedVAE
from components.nn.autoencoders.interface import to_float
from components.training.loop import Training, Worker, fit
from pipeline import train_vae
from pipeline.fitting import vae_training
from tests.pipeline.conftest import ROOT, tiny
from tests.pipeline.encoding.test_moments import write_clips


def params(**changes: object) -> train_vae.Params:
    tables = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    row = tables["autoencoders"]["kuka-vae"]
    row |= {"linear": {"clips": 4, "whitening": 1.0}, "objective": row["objective"] | {"lpips": None}} | changes
    return parse(train_vae.Params, {"autoencoder": row, "recipe": tables["recipes"]["vae"]}, where="test")


def made(clips: Path, rank: int, **changes: object) -> tuple[Training, Any]:
    worker = Worker(rank=rank, world_size=2, device=torch.device("cpu"), parallel=lambda model: model)
    chosen = params(**changes)
    return vae_training.make(chosen.autoencoder, chosen.recipe, clips, clips, worker)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_clips(tmp_path / "clips", {"train": 8, "val": 2, "test": 0})
    return tmp_path / "clips"


def test_every_worker_begins_at_the_pca_of_clips_spread_evenly_over_the_split(clips: Path) -> None:
    (one, _), (other, _) = made(clips, 0), made(clips, 1)
    states = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    expected = params().autoencoder.build()
    assert isinstance(expected, FoldedVAE)
    expected.initialise_pca([to_float(Clips.open(clips, "train").read([index])) for index in (0, 2, 4, 6)])
    assert expected.linear is not None
    for name, tensor in expected.linear.state_dict().items():
        assert torch.equal(one.model.state_dict()[f"autoencoder.linear.{name}"], tensor)


def test_a_split_of_fewer_clips_gives_all_it_has(clips: Path) -> None:
    (whole, _), (more, _) = (
        made(clips, 0, linear={"clips": 8, "whitening": 1.0}),
        made(clips, 0, linear={"clips": 300, "whitening": 1.0}),
    )
    states = zip(whole.model.state_dict().values(), more.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_it_trains_and_goes_on_from_a_checkpoint(clips: Path) -> None:
    training, data = made(clips, 0)
    fresh = training.model.state_dict()["autoencoder.linear.analysis.conv.weight"].clone()
    list(fit(training, data))
    trained = training.model.state_dict()["autoencoder.linear.analysis.conv.weight"]
    assert not torch.equal(trained, fresh)
    again, _ = made(clips, 0)
    again.restore(training.state())
    assert torch.equal(again.model.state_dict()["autoencoder.linear.analysis.conv.weight"], trained)


def test_a_linear_path_of_more_channels_than_blocks_is_refused_in_a_sentence(clips: Path) -> None:
    with pytest.raises(InputError, match="have 144 blocks, fewer than the 200 channels"):
        made(clips, 0, linear={"clips": 1, "whitening": 1.0}, channels=200)
