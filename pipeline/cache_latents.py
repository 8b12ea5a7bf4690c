"""Stage `cache_latents`: clips and a VAE to moments."""

from pathlib import Path

from components.autoencoders.kinds import AutoencoderConfig
from components.config import Config
from components.tracking import Run
from pipeline import encoding, stage


class Params(Config):
    """Nothing that the trained VAE does not say itself; named so that another VAE means other latents."""

    autoencoder: AutoencoderConfig


def main(params: Params, *, clips: Path, autoencoder: Path, out: Path, log: Run) -> dict[str, float]:
    """The moments of every clip in shards, with the mean and standard deviation of each channel beside them."""
    key = encoding.key_of(clips, autoencoder)
    metrics = encoding.fill(clips, autoencoder, key, out.name.strip(".").removesuffix(".partial"), out)
    log.dataset(params.autoencoder.dataset, str(clips), key.clips, "encoding")
    return metrics


if __name__ == "__main__":
    stage.run(main, rows="autoencoders")
