from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.foundation.config import parse
from components.foundation.errors import InputError
from components.nn.autoencoders.folded import CausalVAE, CausalVAEConfig
from components.nn.autoencoders.interface import Autoencoder

SMALL: dict[str, Any] = {
    "kind": "causal",
    "dataset": "shapes",
    "recipe": "vae",
    "frames": 9,
    "resolution": [32, 48],
    "precision": "float32",
    "stride_time": 2,
    "stride_space": 8,
    "channels": 4,
    "width": 8,
    "depth": 1,
    "linear": None,
    "objective": {"reconstruction": "l1", "kl": 1e-5, "lpips": None, "adversarial": None},
}
BAIR = SMALL | {"frames": 17, "resolution": [64, 64], "stride_space": 4, "channels": 8, "width": 64, "depth": 2}


def config(**changes: object) -> CausalVAEConfig:
    return parse(CausalVAEConfig, SMALL | changes, where="params.yaml: autoencoders.small")


def awake(**changes: object) -> CausalVAE:
    """A VAE whose residual blocks do something, which they do not before training."""
    vae = config(**changes).build()
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return vae


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_is_an_autoencoder() -> None:
    vae = config().build()
    assert isinstance(vae, Autoencoder)
    assert (vae.strides, vae.channels, vae.causal) == ((2, 8), 4, True)


@pytest.mark.parametrize("time", [1, 2, 4])
@pytest.mark.parametrize("space", [4, 8, 16])
def test_encode_then_decode_keeps_the_shape(time: int, space: int) -> None:
    vae = config(stride_time=time, stride_space=space).build()
    x = clips(2, 9, 3, 32, 48)
    moments = vae.encode(x)
    assert moments.shape == (2, 1 + 8 // time, 8, 32 // space, 48 // space)
    assert vae.decode(moments[:, :, :4]).shape == x.shape


def test_bairs_seventeen_frames_are_nine_of_16_by_16_and_8_channels() -> None:
    settings = parse(CausalVAEConfig, BAIR, where="bair")
    with torch.device("meta"):
        vae = settings.build()
        moments = vae.encode(torch.empty(1, 17, 3, 64, 64))
        assert moments.shape == (1, 9, 16, 16, 16)
        assert vae.decode(moments[:, :, :8]).shape == (1, 17, 3, 64, 64)
    assert settings.latent == (9, 8, 16, 16)


def test_seventeen_frames_are_nine_latent_ones_and_back() -> None:
    vae = config().build()
    assert (vae.latent_frames(17), vae.pixel_frames(9)) == (9, 17)
    assert all(vae.latent_frames(vae.pixel_frames(frames)) == frames for frames in range(1, 30))


@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_latent_frame_never_changes_with_later_pixels(time: int) -> None:
    vae, x = awake(stride_time=time), clips(1, 9, 3, 32, 48)
    for last in range(0, 9, time):  # the last pixel frame of each latent frame
        changed = x.clone()
        changed[:, last + 1 :] = -changed[:, last + 1 :]
        seen = 1 + last // time
        assert torch.equal(vae.encode(changed)[:, :seen], vae.encode(x)[:, :seen])


def test_a_latent_frame_changes_with_each_of_its_own_pixel_frames() -> None:
    vae, x = awake(), clips(1, 9, 3, 32, 48)
    for frame in range(9):
        changed = x.clone()
        changed[:, frame] = -changed[:, frame]
        own = (frame + 1) // 2
        assert (vae.encode(changed)[:, own] != vae.encode(x)[:, own]).any()


@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_decoded_frame_never_changes_with_later_latents(time: int) -> None:
    vae = awake(stride_time=time)
    latents = torch.randn(1, 1 + 8 // time, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    for last in range(latents.shape[1]):
        changed = latents.clone()
        changed[:, last + 1 :] += 1
        seen = vae.pixel_frames(last + 1)
        assert torch.equal(vae.decode(changed)[:, :seen], vae.decode(latents)[:, :seen])


def test_the_first_frame_alone_has_the_same_latent_as_in_a_clip() -> None:
    vae, x = awake(), clips(1, 9, 3, 32, 48)
    assert torch.allclose(vae.encode(x[:, :1]), vae.encode(x)[:, :1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("linear", [None, {"clips": 1, "whitening": 0.5}])
@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_still_clip_has_equal_latents_and_a_still_decoding(time: int, linear: dict[str, int] | None) -> None:
    vae = awake(stride_time=time, linear=linear)
    x = clips(1, 1, 3, 32, 48).expand(-1, 9, -1, -1, -1)
    moments = vae.encode(x)
    assert torch.allclose(moments, moments[:, :1].expand_as(moments), rtol=1e-4, atol=1e-4)
    y = vae.decode(moments[:, :, :4])
    # the places of a block have weights of their own, which training makes alike: frames of the same place are equal
    assert torch.allclose(y[:, time:], y[:, :-time], rtol=1e-4, atol=1e-3)


def test_moments_are_float32_and_their_variances_finite_whatever_the_precision() -> None:
    vae, x = awake(), 1e4 * clips(1, 3, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        moments = vae.encode(x)
        assert vae.decode(moments[:, :, :4]).dtype == torch.float32
    assert moments.dtype == torch.float32
    assert moments[:, :, 4:].exp().isfinite().all()


def test_before_training_the_posterior_is_narrow() -> None:
    moments = config(width=32).build().encode(clips(1, 9, 3, 32, 48))
    assert (0.5 * moments[:, :, 4:]).exp().mean() < 0.2


def test_it_learns_a_clip_by_heart() -> None:
    torch.manual_seed(0)
    vae, x = (
        config(resolution=[32, 32], width=32).build(),
        clips(1, 5, 3, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2),
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (vae.decode(vae.encode(x)[:, :, :4]) - x).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": 16}, "frames is 16; use 1 \\+ a multiple of stride_time, which is 2"),
        ({"resolution": [64, 60]}, "resolution is \\[64, 60\\]; use multiples of stride_space, which is 8"),
        ({"stride_time": 3}, "stride_time is 3"),
        ({"channels": 0}, "channels is 0"),
        ({"depht": 2}, "unknown key depht"),
        (
            {"objective": {"reconstruction": "l1", "kl": -1.0, "lpips": None, "adversarial": None}},
            "objective.kl is -1.0",
        ),
        (
            {
                "objective": {
                    "reconstruction": "l1",
                    "kl": 1e-5,
                    "lpips": {"weight": 0.1, "net": "alex", "stages": 5, "frames": 10},
                    "adversarial": None,
                }
            },
            "objective.lpips.frames is 10, but clips have 9",
        ),
    ],
)
def test_an_impossible_config_says_what_to_change(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        config(**changes)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 8, 3, 32, 48), "clips of 8 frames do not fit this VAE; use clips of 1 \\+ a multiple of 2"),
        ((1, 9, 3, 30, 48), "frames of 3 x 30 x 48 do not fit this VAE; .* multiples of 8"),
        ((1, 9, 1, 32, 48), "use RGB frames"),
    ],
)
def test_clips_that_do_not_fit_are_refused_in_a_sentence(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        config().build().encode(torch.zeros(shape))


def test_latents_of_another_vae_are_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="latents of 5 channels do not fit this VAE of 4"):
        config().build().decode(torch.zeros(1, 2, 5, 4, 4))
