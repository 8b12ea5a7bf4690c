"""Scores of several predictions of one context: the best of them, and their diversity."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_BEST: Final[Mapping[str, Callable[..., Tensor]]] = {"psnr": torch.amax, "ssim": torch.amax, "lpips": torch.amin}


def best_of(scores: Mapping[str, Float[Tensor, "n"]], samples: int) -> dict[str, float]:
    """Return `psnr_best` etc.: for each score, the best prediction of each context, averaged over contexts.

    The `samples` predictions of a context are consecutive. The best score shows whether any prediction comes close to
    the truth; it improves with the number of predictions.
    """
    return {
        f"{name}_best": float(_BEST[name](values.view(-1, samples), dim=1).mean()) for name, values in scores.items()
    }


def diversity(predictions: Shaped[Tensor, "n *s"], truth: Shaped[Tensor, "b *s"]) -> dict[str, float]:
    """Return `spread` and `spread_ratio`, for consecutive predictions of each context.

    `spread` is the root mean square difference of two predictions of a context. `spread_ratio` divides it by the root
    mean square error of a prediction. If truth and predictions follow the same distribution, the ratio is 1, whatever
    the distribution. The ratio is 0 if all predictions are identical, and below 1 if they are too similar for the size
    of their error. It is omitted if the error is zero.
    """
    samples = len(predictions) // len(truth)
    sets = predictions.unflatten(0, (len(truth), samples))
    difference = _mean_square([(sets[:, i], sets[:, j]) for i, j in combinations(range(samples), 2)])
    error = _mean_square([(sets[:, i], truth) for i in range(samples)])
    ratio = {"spread_ratio": (difference / error) ** 0.5} if error > 0 else {}
    return {"spread": difference**0.5, **ratio}


def _mean_square(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the mean squared difference over all elements of all pairs, computed context by context."""
    squares = [
        [(x.double() - y.double()).square().mean() for x, y in zip(one, other, strict=True)] for one, other in pairs
    ]
    return float(torch.stack([torch.stack(row) for row in squares]).mean())
