"""The union of all autoencoder configs, discriminated by `kind`. A new kind of autoencoder is added only here."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.nn.autoencoders.folded import CausalVAE, CausalVAEConfig, ChunkedVAE, ChunkedVAEConfig
from components.nn.autoencoders.pretrained import DiffusersVAE, DiffusersVAEConfig

AutoencoderConfig = Annotated[CausalVAEConfig | ChunkedVAEConfig | DiffusersVAEConfig, Field(discriminator="kind")]
VAE = CausalVAE | ChunkedVAE | DiffusersVAE


def with_absolute_path(config: AutoencoderConfig) -> AutoencoderConfig:
    """Return the config with a local `path` made absolute, for a process in another working directory."""
    path = getattr(config, "path", None)
    if path is None or not Path(path).expanduser().is_dir():
        return config
    return config.model_copy(update={"path": str(Path(path).expanduser().resolve())})
