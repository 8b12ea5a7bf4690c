"""Whether the canvas's staticness is what it claims to be: the mean of exp(-error) of its tokens (Eq. 6)."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Canvases:
    """Canvases of known frames: what each said of its tokens, and how far off these were."""

    staticness: Float[Tensor, "b t n"]  # as predicted, in [0, 1]
    error: Float[Tensor, "b t n"]  # of the canvas, squared and summed over channels, of standardised latents
    numbers: int  # channels that the error is a sum over
    scale: float  # s = exp(-scale * error)


def reliability(canvases: Canvases) -> dict[str, Any]:
    """`canvas_error` (mean square a number), `staticness_error` (expected calibration error) and `bins`.

    Each bin of predicted staticness that holds tokens: its ends, its tokens, the mean predicted and the mean observed
    exp(-scale error). The calibration error is the mean over tokens of how far apart these two are.
    """
    predicted = canvases.staticness.flatten().double()
    observed = torch.exp(-canvases.scale * canvases.error.flatten().double())
    bins = (predicted * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(bins, minlength=BINS)
    sums = [torch.bincount(bins, weights=values, minlength=BINS) for values in (predicted, observed)]
    rows = [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "tokens": int(counts[index]),
            "predicted": float(sums[0][index] / counts[index]),
            "observed": float(sums[1][index] / counts[index]),
        }
        for index in range(BINS)
        if counts[index]
    ]
    return {
        "canvas_error": float(canvases.error.double().mean() / canvases.numbers),
        "staticness_error": float((sums[0] - sums[1]).abs().sum() / len(predicted)),
        "bins": rows,
    }
