"""Measure how far a video lies from the training clips of a model, in the latent space of its VAE.

The surprise of a clip is the root mean square of its standardised latents in the channel where that is largest. The
default's validation clips have 1.1 to 1.6; a black picture, noise, other colours and real videos have 3 to 8. It does
not see everything: a view that is twice as close has 1.7.
"""

from pathlib import Path
from typing import Final

from jaxtyping import Float
from torch import Tensor

from components.datasets.latents import Latents, standardise
from components.foundation.errors import InputError
from components.models.serialization import ModelDescription

CLIPS: Final = 64  # validation clips
FRAMES: Final = 3  # latent frames of each, as many as a usual context has
MARGIN: Final = 1.25  # times the largest surprise of validation clips is the limit
UNKNOWN: Final = 1.6  # largest surprise of validation clips, if they are not at hand


def surprise(latents: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b"]:
    """Return the surprise of clips with these standardised latents."""
    return latents.square().mean((1, 3, 4)).sqrt().amax(1)


def largest(data: Path, description: ModelDescription) -> float | None:
    """Return the largest surprise among the first validation clips of a model; None if their latents are not here."""
    for folder in sorted((data / "latents").glob("*")):
        try:
            latents = Latents.open(folder, "val", None)
            if (latents.key.autoencoder, latents.key.clips) == (description.autoencoder, description.clips):
                moments = latents.moments(range(min(CLIPS, len(latents))))
                means = moments[:, :FRAMES].chunk(2, dim=2)[0]
                return float(surprise(standardise(means, latents.mean, latents.std)).max())
        except InputError:
            continue  # latents that are being made, or damaged: a warning is worth less than a prediction
    return None


def warning(value: float, largest: float | None) -> str | None:
    """Return a sentence if a surprise is above the limit, else None."""
    usual = largest or UNKNOWN
    if value <= MARGIN * usual:
        return None
    return (
        f"looks unlike the videos that the model was trained on (surprise {value:.1f}; theirs is at most {usual:.1f}), "
        "so the prediction may be meaningless"
    )
