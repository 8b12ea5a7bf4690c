import pytest
import torch
from torch import Tensor, nn

from components.foundation.config import parse
from components.nn.autoencoders.folded import ChunkedVAE, ChunkedVAEConfig
from components.nn.autoencoders.interface import Autoencoder, shortest
from tests.components.nn.autoencoders.test_causal import SMALL, clips

KINETICS = SMALL | {"kind": "chunked", "frames": 17, "resolution": [128, 128], "stride_time": 4, "channels": 16}


def awake() -> ChunkedVAE:
    """A VAE whose blocks do something, which they do not before training."""
    settings = SMALL | {"kind": "chunked", "stride_time": 4}
    vae = parse(ChunkedVAEConfig, settings, where="test").build()
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return vae


def test_kinetics_seventeen_frames_are_five_of_16_by_16_and_16_channels() -> None:
    settings = parse(ChunkedVAEConfig, KINETICS, where="kinetics")
    with torch.device("meta"):
        vae = settings.build()
        moments = vae.encode(torch.empty(1, 17, 3, 128, 128))
        assert moments.shape == (1, 5, 32, 16, 16)
        assert vae.decode(moments[:, :, :16]).shape == (1, 17, 3, 128, 128)
    assert settings.latent == (5, 16, 16, 16)
    assert isinstance(vae, Autoencoder)
    assert vae.frame_formula == "1 + (f - 1) / 4 latent frames, each of its own 4 pixel frames alone"
    assert [shortest(vae, frames) for frames in (1, 2, 5, 6, 17)] == [1, 5, 5, 9, 17]


def changed(x: Tensor, frame: int) -> Tensor:
    other = x.clone()
    other[:, frame] = -other[:, frame]
    return other


def test_a_latent_frame_changes_with_every_frame_of_its_chunk_and_with_no_other() -> None:
    vae, x = awake(), clips(1, 9, 3, 32, 48)
    before = vae.encode(x)
    for frame in range(9):
        own = (frame + 3) // 4  # three frames of zeros come first
        after = vae.encode(changed(x, frame))
        assert [not torch.equal(after[:, t], before[:, t]) for t in range(3)] == [t == own for t in range(3)]


@pytest.mark.parametrize("latent", range(3))
def test_any_latent_frame_decodes_alone(latent: int) -> None:
    vae = awake()
    latents = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latents)
    first, last = max(0, 4 * latent - 3), 4 * latent + 1
    if latent == 0:
        alone = vae.decode(latents[:, :1])
    else:  # behind any other, because the first chunk keeps its last frame only
        alone = vae.decode(torch.stack([-latents[:, 0], latents[:, latent]], dim=1))[:, 1:]
    assert torch.allclose(whole[:, first:last], alone, atol=1e-4)


def test_frames_of_zeros_come_before_the_first_one() -> None:
    vae, x = awake(), clips(1, 1, 3, 32, 48)
    chunk = torch.cat([torch.zeros(1, 3, 3, 32, 48), x], dim=1)
    as_a_later_one = vae.encode(torch.cat([x, chunk], dim=1))[:, 1]
    assert torch.allclose(vae.encode(x)[:, 0], as_a_later_one, atol=1e-4)
