"""Calibration of the canvas's staticness.

Among tokens of about the same predicted staticness, the prediction should equal the mean of exp(-scale * error)
(Eq. 6).
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Canvases:
    """Predicted staticness and true error of each token, for canvases whose true frames are known."""

    staticness: Float[Tensor, "b t n"]  # as predicted, in [0, 1]
    error: Float[Tensor, "b t n"]  # squared error of the canvas in standardised latents, summed over channels
    channels: int  # channels that `error` is summed over
    scale: float  # s = exp(-scale * error)


def reliability(canvases: Canvases) -> dict[str, Any]:
    """Return `canvas_error` (mean squared error per channel), `staticness_error` and `bins` (a reliability diagram).

    Each non-empty bin of predicted staticness has its bounds, its number of tokens, the mean prediction and the mean
    observed exp(-scale error). `staticness_error` is the expected calibration error: the absolute difference of these
    two means, averaged over tokens.
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
        "canvas_error": float(canvases.error.double().mean() / canvases.channels),
        "staticness_error": float((sums[0] - sums[1]).abs().sum() / len(predicted)),
        "bins": rows,
    }
