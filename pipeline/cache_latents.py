"""Stage `cache_latents`: encode clips with a trained VAE and store the moments."""

from pathlib import Path
from typing import Final

from components.foundation.config import Config
from components.nn.autoencoders.kinds import AutoencoderConfig
from components.telemetry.tracking import Run
from pipeline.encoding import moments
from pipeline.runtime import stage

HEADLINES: Final = ("latents_train", "megabytes")  # for `dvc metrics`


class Params(Config):
    """VAE of the row. The stage reads only its dataset name; DVC reruns the stage when the VAE config changes."""

    autoencoder: AutoencoderConfig


def main(params: Params, *, clips: Path, autoencoder: Path, out: Path, log: Run) -> dict[str, float]:
    """Write the moments of every clip in shards, and the mean and standard deviation of each channel."""
    key = moments.key_of(clips, autoencoder)
    metrics = moments.fill(clips, autoencoder, key, out)
    log.dataset(params.autoencoder.dataset, str(clips), key.clips, "encoding")
    return metrics


if __name__ == "__main__":
    from pipeline.checks import problems  # not above: a Ray worker that imports this file needs no checks

    stage.run(main, rows="autoencoders", check=problems.before_stage, headlines=HEADLINES)
