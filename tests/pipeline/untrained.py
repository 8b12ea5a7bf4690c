"""A project folder whose rows were never trained: random weights in their places, made in a second."""

import json
from pathlib import Path

import torch

from components.datasets import latents
from components.foundation import checkpoint, config
from components.foundation.settings import presets
from components.models.canvasmar.model import CanvasMARConfig
from components.models.serialization import ModelDescription
from components.nn.autoencoders.folded import CausalVAEConfig
from components.video import video
from tests.pipeline.conftest import ROOT, tiny


def scattered(module: torch.nn.Module) -> torch.nn.Module:
    """Every weight random, so that no block is the identity and no gate is closed."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
    return module


def build(folder: Path, *, group: int = 1, vae_changes: dict | None = None) -> Path:
    """Rows with and without a canvas, and two videos of 20 frames."""
    params = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    data = folder / "data"
    vae = params["autoencoders"]["kuka-vae"] | (vae_changes or {})
    vae_config = config.parse(CausalVAEConfig, vae, where="vae")
    save(data / "autoencoders" / "kuka-vae", vae_config.build(), vae_config)
    identity = checkpoint.identity(data / "autoencoders" / "kuka-vae")
    for row, model, sampler in (
        ("kuka-canvasmar", "canvas", "default"),
        ("kuka-no-canvas", "no-canvas", "no-canvas"),
    ):
        shape = config.parse(CanvasMARConfig, params["models"][model] | {"group": group}, where="model")
        trained = ModelDescription(
            model=shape, autoencoder=identity, clips="", encoder=None, actions=None, mean=(0.1,) * 4, std=(0.9,) * 4
        )
        save(data / "models" / row, shape.build(), trained)
        (data / "searches" / row).mkdir(parents=True)
        content = {"sampler": params["samplers"][sampler] | {"sets": 3}}
        (data / "searches" / row / "best.json").write_text(json.dumps(content), encoding="utf-8")
    ramp = torch.linspace(0, 200, 20)[:, None, None, None] + torch.linspace(0, 50, 48)
    for name in ("one", "two"):
        video.write(folder / "videos" / f"{name}.mp4", ramp.expand(20, 3, 40, 48).to(torch.uint8), 8)
    return folder


def write_latents(folder: Path, autoencoder: Path, clips: int = 16, frames: int = 5) -> None:
    """Moments of noise, the VAE with random weights that is said to have made them, and an empty folder of clips."""
    params = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    vae = config.parse(CausalVAEConfig, params["autoencoders"]["kuka-vae"], where="vae")
    above = folder.parents[1] if folder.parent.name == "latents" else folder.parent
    (above / "clips" / vae.dataset).mkdir(parents=True, exist_ok=True)
    save(autoencoder, vae.build(), vae)
    torch.manual_seed(0)
    reports = [latents.write_shard(folder, split, 0, torch.randn(clips, frames, 8, 4, 4)) for split in ("train", "val")]
    key = latents.LatentKey(autoencoder=checkpoint.identity(autoencoder), clips="b", settings={})
    latents.finish(folder, reports, key, {})


def save(folder: Path, module: torch.nn.Module, description: config.Config) -> None:
    """As a stage leaves it."""
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, scattered(module).state_dict())
    checkpoint.describe(folder, description)
