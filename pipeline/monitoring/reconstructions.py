"""Image of a validation clip that the VAE has reconstructed, for the VAE's MLflow run."""

import tempfile
from pathlib import Path

from components.pictures import galleries, records
from components.telemetry.tracking import Run


def log_reconstruction(autoencoder: Path, log: Run) -> None:
    """Log the first reconstructed clip above its truth as the artifact `autoencoder/reconstruction.png`."""
    film = galleries.reconstruction_filmstrip(records.read_reconstructions(autoencoder), 0)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "reconstruction.png"
        picture.write_bytes(galleries.sheet(film))
        log.artifact(picture, "autoencoder")
