"""Published VAEs, as diffusers saves them: tiny ones with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.foundation.config import parse
from components.foundation.errors import InputError
from components.nn import from_timm  # noqa: F401  declares what diffusers' own import of torchvision needs
from components.nn.autoencoders import serialization
from components.nn.autoencoders.coding import Coder
from components.nn.autoencoders.interface import Autoencoder
from components.nn.autoencoders.kinds import with_absolute_path
from components.nn.autoencoders.pretrained import DiffusersVAE, DiffusersVAEConfig

diffusers: Any = pytest.importorskip("diffusers")

WAN: dict[str, Any] = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
WAN |= {"temperal_downsample": [False, True, True], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
COSMOS: dict[str, Any] = {"latent_channels": 4, "encoder_block_out_channels": (8, 8), "num_layers": 1}
COSMOS |= {"decode_block_out_channels": (8, 8), "attention_resolutions": (8,), "resolution": 64}
LTX: dict[str, Any] = {"latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
LTX |= {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5, "patch_size": 1}
LTX |= {"spatio_temporal_scaling": (True, True, False, False), "decoder_causal": False}
LTX |= {"decoder_spatio_temporal_scaling": (True, True, False, False)}
COGVIDEO: dict[str, Any] = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "latent_channels": 4}
COGVIDEO |= {"up_block_types": ("CogVideoXUpBlock3D",) * 4, "block_out_channels": (8,) * 4}
COGVIDEO |= {"layers_per_block": 1, "norm_num_groups": 2}
# class -> its sizes, strides, whether it looks ahead
TINY = {
    "AutoencoderKLWan": (WAN, (4, 8), True),
    "AutoencoderKLCosmos": (COSMOS, (4, 4), True),
    "AutoencoderKLLTXVideo": (LTX, (4, 4), False),
    "AutoencoderKLCogVideoX": (COGVIDEO, (4, 8), False),
}


def config(path: Path, **changes: object) -> DiffusersVAEConfig:
    settings = {"kind": "diffusers", "dataset": "shapes", "recipe": "vae", "frames": 17, "resolution": [32, 64]}
    more = {"precision": "float32", "path": str(path), "subfolder": "vae", "revision": None, "network": None}
    return parse(DiffusersVAEConfig, settings | more | {"objective": None} | changes, where="test")


@pytest.fixture(scope="module", params=TINY)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A pipeline's folder with a VAE in it."""
    sizes, _, _ = TINY[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    getattr(diffusers, request.param)(**sizes).save_pretrained(folder / "vae")
    return request.param, folder


def clips(frames: int) -> Tensor:
    shape = (2, frames, 3, 32, 64)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def looks_ahead(vae: DiffusersVAE, x: Tensor, latents: Tensor) -> bool:
    """Whether an earlier latent frame changes with the last pixel frame, or an earlier frame with the last latents."""
    other, later = x.clone(), latents.clone()
    other[:, -1], later[:, -1] = -x[:, -1], -latents[:, -1]
    kept = vae.pixel_frames(latents.shape[1] - 1)
    encoded = torch.equal(vae.encode(other)[:, :-1], vae.encode(x)[:, :-1])
    return not (encoded and torch.equal(vae.decode(later)[:, :kept], vae.decode(latents)[:, :kept]))


@torch.no_grad()
def test_a_published_vae_is_an_autoencoder_with_the_strides_and_the_causality_that_it_states(saved) -> None:
    name, folder = saved
    _, strides, causal = TINY[name]
    vae = config(folder).build().eval()
    assert isinstance(vae, Autoencoder)
    assert (vae.strides, vae.causal) == (strides, causal)
    x = clips(17).float() / 127.5 - 1
    moments = vae.encode(x)
    t, c, h, w = config(folder).latent
    assert moments.shape == (2, t, 2 * c, h, w) == (2, vae.latent_frames(17), 2 * c, 32 // strides[1], 64 // strides[1])
    assert moments.dtype == torch.float32
    assert moments.isfinite().all()
    latents = moments[:, :, :c]
    assert vae.decode(latents).shape == x.shape
    assert looks_ahead(vae, x, latents) == (not causal)


def test_it_is_the_vae_that_was_saved_and_is_loaded_again_without_the_folder_it_came_from(saved, tmp_path) -> None:
    name, folder = saved
    vae = config(folder).build().eval()
    own = getattr(diffusers, name).from_pretrained(folder / "vae").eval()
    x = clips(9)
    with torch.no_grad():
        expected = own.encode((x.float() / 127.5 - 1).transpose(1, 2)).latent_dist.mode().transpose(1, 2)
    serialization.save(tmp_path, vae, vae.state_dict())
    again = serialization.load(tmp_path, torch.device("cpu"))
    assert again.config.network is not None
    (moments,) = Coder(again, torch.device("cpu")).encode(x)
    assert torch.allclose(moments[:, :, : again.channels], expected, atol=1e-5)


def test_what_is_no_video_vae_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="no/such is neither a folder with a VAE of diffusers nor a model on"):
        config(Path("no/such")).build()
    sizes = {"block_out_channels": (8,), "down_block_types": ("DownEncoderBlock2D",), "norm_num_groups": 2}
    diffusers.AutoencoderKL(**sizes, up_block_types=("UpDecoderBlock2D",)).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="holds AutoencoderKL, which cannot encode videos"):
        config(tmp_path).build()
    diffusers.UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=2
    ).save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="UNet2DModel is not an AutoencoderKL class"):
        config(tmp_path).build()


def test_a_local_path_is_made_whole_and_a_name_on_the_hub_stays(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_absolute_path(config(Path("mine"))).path == str(tmp_path / "mine")  # type: ignore[union-attr]
    assert with_absolute_path(config(Path("someone/vae"))).path == "someone/vae"  # type: ignore[union-attr]
