from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.nn.autoencoders.folded import FIRST_LOG_VARIANCE, FoldedVAE
from components.nn.autoencoders.interface import sample
from components.nn.autoencoders.kinds import AutoencoderConfig
from components.nn.autoencoders.linear import LinearPath, components
from tests.components.nn.autoencoders.test_causal import SMALL

LINEAR = SMALL | {"linear": {"clips": 6, "whitening": 1.0}, "resolution": [32, 32], "channels": 12}


class Row(Config):
    autoencoder: AutoencoderConfig


def smooth(count: int, frames: int = 9, side: int = 32) -> Tensor:
    """Clips in [-1, 1] whose pixels are like their neighbours, as those of videos are."""
    coarse = torch.randn(count, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = nn.functional.interpolate(coarse, (frames, side, side), mode="trilinear").tanh()
    return fine.transpose(1, 2).contiguous()


def fresh(**changes: object) -> FoldedVAE:
    torch.manual_seed(0)
    vae = parse(Row, {"autoencoder": LINEAR | changes}, where="test").autoencoder.build()
    assert isinstance(vae, FoldedVAE)
    return vae


def begun(clips: Tensor, **changes: object) -> FoldedVAE:
    vae = fresh(**changes)
    vae.initialise_pca(clips.split(1))
    return vae


def pca(clips: Tensor, time: int, space: int, channels: int, padding: str) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction and latents of a naive PCA: each block cut by hand, the components by SVD."""
    x = clips.double().numpy()
    still = np.repeat(x[:, :1], time - 1, axis=1) * (padding == "repeated")
    x = np.concatenate([still, x], axis=1)
    corners = [
        (clip, slice(f, f + time), slice(None), slice(row, row + space), slice(column, column + space))
        for clip in range(x.shape[0])
        for f in range(0, x.shape[1], time)
        for row in range(0, x.shape[3], space)
        for column in range(0, x.shape[4], space)
    ]
    blocks = np.stack([x[corner].ravel() for corner in corners])
    middle = blocks.mean(axis=0)
    basis = np.linalg.svd(blocks - middle, full_matrices=False)[2][:channels]
    latents = (blocks - middle) @ basis.T
    for corner, block in zip(corners, latents @ basis + middle, strict=True):
        x[corner] = block.reshape(x[corner].shape)
    return x[:, time - 1 :], latents


@pytest.mark.parametrize(("kind", "padding"), [("causal", "repeated"), ("chunked", "zeros")])
@pytest.mark.parametrize(("time", "space"), [(1, 4), (2, 8), (4, 8)])
def test_before_training_it_is_the_pca_of_the_clips(kind: str, padding: str, time: int, space: int) -> None:
    x = smooth(6)
    vae = begun(x, kind=kind, stride_time=time, stride_space=space)
    expected, latents = pca(x, time, space, 12, padding)
    mean = vae.encode(x)[:, :, :12]
    assert np.abs(vae.decode(mean).detach().numpy() - expected).max() < 1e-4
    found = mean.detach().movedim(2, -1).reshape(-1, 12).double().numpy()
    likeness = np.abs((found * latents).mean(axis=0) / (found.std(axis=0) * latents.std(axis=0)))
    assert likeness == pytest.approx(np.ones(12), abs=1e-3)


def test_latents_of_the_clips_have_mean_zero_and_unit_variance() -> None:
    x = smooth(6)
    mean = begun(x).encode(x)[:, :, :12].detach().movedim(2, -1).flatten(0, -2)
    assert torch.allclose(mean.mean(dim=0), torch.zeros(12), atol=1e-3)
    assert torch.allclose(mean.std(dim=0), torch.ones(12), atol=1e-2)


def test_the_first_posterior_is_narrow_and_hardly_spoils_the_reconstruction() -> None:
    x = smooth(6)
    vae = begun(x)
    moments = vae.encode(x)
    noise = torch.randn(moments[:, :, :12].shape, generator=torch.Generator().manual_seed(0))
    noisy, clean = ((vae.decode(sample(moments, r)) - x).square().mean().item() for r in (noise, 0 * noise))
    assert moments[:, :, 12:].max() <= FIRST_LOG_VARIANCE
    assert clean < noisy < 1.1 * clean


def test_equal_clips_begin_equal_weights_whatever_the_batches() -> None:
    x = smooth(6)
    one, other = begun(x), fresh()
    other.initialise_pca(x.split(1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    other.initialise_pca(x.split(4))
    close = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in close)


def test_the_largest_number_of_each_component_is_positive() -> None:
    rows = torch.randn(1, 40, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    basis = components([rows], 6).basis
    assert (basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)) > 0).all()
    assert torch.allclose(basis @ basis.T, torch.eye(6).double(), atol=1e-12)


def test_components_without_variance_leave_the_latents_finite() -> None:
    x = torch.full((6, 9, 3, 32, 32), 0.3)
    moments = begun(x).encode(x)
    assert moments.isfinite().all()
    assert torch.allclose(begun(x).decode(moments[:, :, :12]), x, atol=1e-4)


def test_its_training_starts_from_there_and_goes_down() -> None:
    x = smooth(6)
    vae = begun(x, width=16)
    objective = vae.settings.objective.build(vae, Path("never read"))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    losses = []
    for step in range(40):
        loss = objective(x, objective.draw(x, Stream.of(0, range(6)).fork("step", step))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert max(losses) < 1.5 * losses[0]


def test_every_weight_is_trained() -> None:
    x = smooth(2)
    vae = begun(x)
    assert isinstance(vae.linear, LinearPath)
    optimizer = torch.optim.SGD(vae.parameters(), lr=1e-2)
    for _ in range(2):  # the last layers start at zero, so gradients reach what is before them in the second step
        optimizer.zero_grad()
        moments = vae.encode(x)
        (vae.decode(sample(moments, torch.ones_like(moments[:, :, :12]))) - x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None for p in vae.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.linear.parameters())


def test_bfloat16_leaves_the_linear_path_in_float32() -> None:
    x = smooth(6)
    vae = begun(x)
    with torch.autocast("cpu", torch.bfloat16):
        again = vae.decode(vae.encode(x)[:, :, :12])
    assert torch.allclose(again, vae.decode(vae.encode(x)[:, :, :12]), atol=1e-5)


def test_its_work_can_be_counted_on_tensors_without_memory() -> None:
    vae = fresh().to("meta")
    moments = vae.encode(torch.empty(1, 9, 3, 32, 32, device="meta"))
    assert vae.decode(moments[:, :, :12]).shape == (1, 9, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": 385}, "channels is 385, but the PCA of `linear` has at most 384 components, .*; use at most 384"),
        ({"linear": {"clips": 0, "whitening": 1.0}}, "linear.clips is 0"),
    ],
)
def test_an_impossible_linear_path_says_what_to_change(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fresh(**changes)


def test_clips_of_fewer_blocks_than_channels_are_refused_in_a_sentence() -> None:
    with pytest.raises(
        InputError, match=r"have 4 blocks, fewer than the 12 channels .* raise autoencoder.linear.clips or use fewer"
    ):
        fresh().initialise_pca([torch.zeros(1, 1, 3, 16, 16)])
