"""Every kind of autoencoder, told apart by `kind`; nothing but this list knows how many there are."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.autoencoders.causal import CausalVAE, CausalVAEConfig
from components.autoencoders.chunked import ChunkedVAE, ChunkedVAEConfig
from components.autoencoders.pretrained import DiffusersVAE, DiffusersVAEConfig

AutoencoderConfig = Annotated[CausalVAEConfig | ChunkedVAEConfig | DiffusersVAEConfig, Field(discriminator="kind")]
VAE = CausalVAE | ChunkedVAE | DiffusersVAE


def located(config: AutoencoderConfig) -> AutoencoderConfig:
    """The same autoencoder for a process that runs in another folder: a local path is made whole."""
    path = getattr(config, "path", None)
    if path is None or not Path(path).expanduser().is_dir():
        return config
    return config.model_copy(update={"path": str(Path(path).expanduser().resolve())})
