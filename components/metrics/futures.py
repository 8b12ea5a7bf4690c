"""Several predictions of one context: the best of them, and whether they differ as much as they should."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_BEST: Final[Mapping[str, Callable[..., Tensor]]] = {"psnr": torch.amax, "ssim": torch.amax, "lpips": torch.amin}


def best_of(scores: Mapping[str, Float[Tensor, "n"]], samples: int) -> dict[str, float]:
    """`psnr_best` and so on: the best of the predictions of each context by each score, averaged over contexts.

    The predictions of a context are neighbours. It says whether the truth was among what was held possible, and grows
    with the number of predictions.
    """
    return {f"{name}_best": float(_BEST[name](of.view(-1, samples), dim=1).mean()) for name, of in scores.items()}


def diversity(predictions: Shaped[Tensor, "n *s"], truth: Shaped[Tensor, "b *s"]) -> dict[str, float]:
    """`spread`: root mean square difference of two predictions of a context; `spread_ratio`: for one of the error's.

    If the truth is drawn as the predictions are, two predictions are as far apart as a prediction and the truth, in
    mean square, whatever the distribution: the ratio is 1. It is 0 where all predictions are the same, below 1 where
    they are too alike for how wrong they are, and has no meaning (and is left out) where there is no error at all.
    """
    samples = len(predictions) // len(truth)
    sets = predictions.unflatten(0, (len(truth), samples))
    apart = _mean_square([(sets[:, i], sets[:, j]) for i, j in combinations(range(samples), 2)])
    error = _mean_square([(sets[:, i], truth) for i in range(samples)])
    ratio = {"spread_ratio": (apart / error) ** 0.5} if error > 0 else {}
    return {"spread": apart**0.5, **ratio}


def _mean_square(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Over all numbers of all pairs, a context at a time."""
    squares = [
        [(x.double() - y.double()).square().mean() for x, y in zip(one, other, strict=True)] for one, other in pairs
    ]
    return float(torch.stack([torch.stack(row) for row in squares]).mean())
